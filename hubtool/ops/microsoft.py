"""Placeholder of the family microsoft."""
