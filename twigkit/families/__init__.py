"""Finds the adapter of a base model, loads the base, and tells its sizes."""
