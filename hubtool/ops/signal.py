"""Placeholder of the family signal."""
