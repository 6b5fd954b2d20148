"""Speculative decoding without a model: candidates, token trees, acceptance and sampling."""
