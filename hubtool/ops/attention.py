"""Placeholder of the family attention."""
