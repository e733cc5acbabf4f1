"""Placeholder of the family quantize."""
