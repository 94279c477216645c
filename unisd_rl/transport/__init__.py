"""The two wires between the processes: rollouts and weights, both halves of each side by side."""
