"""Formal privacy: mechanisms and accounting (NumPy only)."""
