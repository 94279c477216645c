"""Generators inside a rollout actor, behind one protocol: vLLM (default) and transformers."""
