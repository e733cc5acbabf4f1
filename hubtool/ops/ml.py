"""Placeholder of the family ml."""
