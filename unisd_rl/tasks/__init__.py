"""Where examples come from: the first stop of the data's path. See `task.py` for the protocol."""
