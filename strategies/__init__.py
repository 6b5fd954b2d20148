"""Strategies: pruners and drafters."""
