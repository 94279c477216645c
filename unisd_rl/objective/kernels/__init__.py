"""Losses over a vocabulary, computed without holding [tokens, vocabulary]."""
