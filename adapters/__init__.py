"""Adapters: how a family of models is exposed as a stack of layers."""
