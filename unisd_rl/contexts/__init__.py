"""Contexts, what teachers read in front of a completion: examples become views (x+, c_k and x- of method.md)."""
