"""A twig for a real language model: prompts, the model's own answers, training, measurement."""
