"""The rollout wire: what actors completed, stored once, handed to the learner in order."""
