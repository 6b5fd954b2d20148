"""The built-in small VLM: its world, its recipe and its weights."""
