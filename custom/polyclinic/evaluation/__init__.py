"""Metrics and the report a person reads (NumPy only)."""
