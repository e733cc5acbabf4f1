"""Placeholder of the family regions."""
