"""Rollout actors: the processes that generate, each around one engine, and their group."""
