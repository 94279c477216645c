"""The machines under a run: resources, cores, Ray, waits and restarts."""
