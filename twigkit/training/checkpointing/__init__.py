"""Snapshots to resume from, and the twig at the end."""
