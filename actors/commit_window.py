"""The window in which finished rollouts are gathered to be committed in one call of the queue."""


class CommitWindow:
    """For how many `seconds` finished rollouts wait for others to be committed with.

    Their places in the engine stay empty meanwhile, so that it is at most 1/16 of the time that a unit takes; and at
    most 30 ms while the learner waits for rollouts, 250 ms while it does not.
    """

    _SHARE, _LEARNER_WAITS_S, _AHEAD_S, _WEIGHT = 1 / 16, 0.03, 0.25, 0.1

    def __init__(self) -> None:
        self._unit_s: float | None = None
        self.learner_waits = True

    def count(self, unit_s: float) -> None:
        """A unit took so many seconds."""
        self._unit_s = unit_s if self._unit_s is None else self._unit_s + self._WEIGHT * (unit_s - self._unit_s)

    @property
    def seconds(self) -> float:
        """As things are now."""
        limit_s = self._LEARNER_WAITS_S if self.learner_waits else self._AHEAD_S
        return limit_s if self._unit_s is None else min(limit_s, self._SHARE * self._unit_s)
