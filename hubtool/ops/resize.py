"""Placeholder of the family resize."""
