"""Makes and measures the weights of the built-in model."""
