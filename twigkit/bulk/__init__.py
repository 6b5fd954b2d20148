"""Answers for whole data sets."""
