"""Placeholder of the family recurrent."""
