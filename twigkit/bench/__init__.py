"""Speed and memory, measured side by side with Hugging Face's ``generate``."""
