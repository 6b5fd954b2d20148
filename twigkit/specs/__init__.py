"""Validated settings that are the same in Python, YAML and JSON."""
