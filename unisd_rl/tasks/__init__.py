"""Tasks, where examples come from: the first stop of the data's path. `task.py` has the protocol."""
