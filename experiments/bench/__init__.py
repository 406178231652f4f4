"""Measurements: each compares all contestants side by side in one run."""
