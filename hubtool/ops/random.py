"""Placeholder of the family random."""
