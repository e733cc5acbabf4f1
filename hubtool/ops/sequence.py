"""Placeholder of the family sequence."""
