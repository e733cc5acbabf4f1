"""Placeholder of the family microsoft_quantize."""
