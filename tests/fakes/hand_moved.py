"""Hand-made ends for supervisors: a clock that is set, calls that end when told, processes that remember."""

from pathlib import Path

from actors.process import ActorFailed
from actors.rollout_actor import RolloutActor
from actors.supervisor import ActorSupervisor, DesiredState
from unisd_rl.config import Config
from unisd_rl.types import ActorReport, PolicyVersion, Pulse

VERSION_0 = PolicyVersion(0, 0)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class HandCall:
    """A call that ends by `end(value)` or `break_(what)`."""

    def __init__(self, method, *arguments):
        self.method, self.arguments = method, arguments
        self._ended, self._value, self._failure = False, None, None

    def end(self, value=None):
        self._ended, self._value = True, value

    def break_(self, what, permanent=None):
        self._ended, self._failure = True, ActorFailed(what, permanent)

    def done(self):
        return self._ended

    def result(self):
        assert self._ended, f"{self.method} would have been waited for"
        if self._failure:
            raise self._failure
        return self._value


class HandProcess:
    """Stands for `ActorProcess`; `calls[method]` are the calls made, oldest first."""

    def __init__(self, name):
        self.name, self.log = name, Path(f"{name}.log")
        self.calls = {}
        self.placed = HandCall("placed")
        self.killed = False

    def last(self, method):
        return self.calls[method][-1]

    @property
    def leasing(self):
        return len(self.calls.get("pause_leases", [])) == len(self.calls.get("resume_leases", []))

    def start(self):
        return self.call(RolloutActor.start)

    def call(self, method, *arguments):
        name = method.__name__
        assert not self.killed, f"{name} of {self.name}, which was ended"
        self.calls.setdefault(name, []).append(HandCall(name, *arguments))
        return self.calls[name][-1]

    def end(self):
        self.killed = True


class Rig:
    """One supervisor, and everything it does to others."""

    def __init__(self, index=2, **faults):
        self.config = Config.model_validate(
            {
                "faults": {"backoff_s": 1.0, "ping_s": 5.0, "silent_s": 60.0, **faults},
                "run": {"start_timeout_s": 100.0},
                "weights": {"timeout_s": 30.0},
                "rollout": {"lease_s": 40.0},
                "objective": {"divergence": {}},
            }
        )
        self.clock, self.desired = Clock(), DesiredState(first_start=False)
        self.processes, self.retired, self.events = [], [], []
        self.actor = ActorSupervisor(
            index, self.config, self.desired, self._begin, self.retired.append, self.events.append, self.clock
        )

    def _begin(self, name):
        self.processes.append(HandProcess(name))
        return self.processes[-1]

    @property
    def process(self):
        return self.processes[-1]

    def check(self, now=None):
        if now is not None:
            self.clock.now = now
        self.actor.check()

    def serve(self, version=VERSION_0):
        """From wherever it stands to serving."""
        self.process.placed.end()
        self.check()
        self.process.last("start").end(version)
        self.check()

    def started(self, version=VERSION_0):
        self.actor.open()
        self.serve(version)
        return self


def pulse(version=VERSION_0):
    return Pulse(version, served_s=1.0, busy_s=0.5)


def counted(name="rollout-2"):
    return ActorReport(name, VERSION_0, 2, 0, ())
