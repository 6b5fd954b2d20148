"""A base model seen as a prompt, a stack of decoder layers with a KV cache, and a head."""
