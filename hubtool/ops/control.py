"""Placeholder of the family control."""
