"""Placeholder of the family loss."""
