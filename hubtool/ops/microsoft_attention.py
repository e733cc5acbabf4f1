"""Placeholder of the family microsoft_attention."""
