"""Likelihood and retention: how well a model knows the gold completions, and how far it is from where it started."""
