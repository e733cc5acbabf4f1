"""Placeholder of the family text."""
