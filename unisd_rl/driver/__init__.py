"""What the driver process does beside the loop."""
