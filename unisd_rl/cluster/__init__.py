"""Where processes run: Ray, places, cores, restarts, waiting."""
