"""Models and tokenizers as they lie in a folder."""
