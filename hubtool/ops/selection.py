"""Placeholder of the family selection."""
