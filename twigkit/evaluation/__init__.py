"""Accuracy under pruning, relative to the unpruned base."""
