"""A run's numbers in the trackers that people look at: one small seam (tracker.py), one module a tracker."""
