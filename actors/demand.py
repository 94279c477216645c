"""How many rollout actors a run wants right now: as configured, as a person last said, or as the learner's waits ask.

```
 config --------------------+
 RUN/control/actors.json ---+--> count --> RolloutGroup.check
 each step's waits (auto) --+              RolloutGroup.check --> RUN/control/status.json
```
"""

from contextlib import suppress

from actors.scale_requests import ActorsStatus, RunControl, Unreadable
from actors.scaling import Observation, ScalingRule
from unisd_rl.cluster.restarts import Fault, Report
from unisd_rl.config import AutoActors, RolloutConfig


class ActorDemand:
    """See the module. What a person says holds until they say something else; with `rollout.actors.max` the rule goes
    on from there, within its bounds."""

    def __init__(self, config: RolloutConfig, control: RunControl, report: Report) -> None:
        self._control, self._report = control, report
        control.begin()
        self._rule = ScalingRule(config.actors) if isinstance(config.actors, AutoActors) else None
        self._count = config.actors_at_start
        self._said: int | None = None
        self._objection = ""

    def count(self) -> int:
        """The number wanted now."""
        try:
            said = self._control.requested_actors()
        except Unreadable as error:
            said = self._said
            self._object(str(error))
        if said is not None and said != self._said:
            self._said = self._count = said
            if self._rule is not None:
                self._rule.set(said)
        return self._count if self._rule is None else self._rule.count

    def observe(self, seen: Observation) -> None:
        """Take a step into account; nothing, where the number is fixed."""
        if self._rule is not None:
            self._rule.observe(seen)

    def tell(self, status: ActorsStatus) -> None:
        """Say what there is. What a full disk does not take is said at a later look."""
        with suppress(OSError):
            self._control.tell(status)

    def _object(self, sentence: str) -> None:
        if sentence != self._objection:
            self._objection = sentence
            self._report(Fault("control", sentence, 0, 0.0))
