"""Names of rollout actors that are not coming back, until the queue has confirmed each."""

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError


class Retirements:
    """Tells the queue, where there is one. One that was away when it was told is told again."""

    def __init__(self, queue: ActorHandle | None) -> None:
        self._queue = queue
        self._calls: dict[str, ray.ObjectRef[None]] = {}

    def retire(self, name: str) -> None:
        """Tell the queue that `name` needs no prompts any more, and what it held is free; returns at once."""
        if self._queue is not None:
            self._calls[name] = self._queue.retire.remote(name)

    def check(self) -> None:
        """Look at what was answered meanwhile. Raises what the queue refused a retirement with."""
        for name, call in tuple(self._calls.items()):
            if not ray.wait([call], timeout=0)[0]:
                continue
            try:
                ray.get(call, timeout=0)
                del self._calls[name]
            except RayActorError:
                self.retire(name)
