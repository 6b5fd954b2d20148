"""Heads: what a twig can carry on top of its layers."""
