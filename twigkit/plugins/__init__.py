"""Finds plug-ins in the installed distributions and keeps them by kind and name."""
