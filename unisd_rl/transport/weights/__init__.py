"""The weights' wire: snapshots from the learner to the engines (both halves side by side)."""
