"""Derived seeds: one way to make a seed from others, so that nothing random depends on the order of calls.

A draw is seeded by what it is for (the run's seed, a purpose, an example or a number): it comes out
the same after a resume, on another actor, and with other draws in between.
"""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**31) that is a pure function of `parts`, equal on every machine and Python."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 33
