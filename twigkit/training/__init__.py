"""Training of twigs: data, losses of the two stages, and the loop that loses no work."""
