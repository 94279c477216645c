"""Whom a publication is for: a store that actors fetch from, or the actors themselves."""

from dataclasses import dataclass

from ray.actor import ActorHandle


@dataclass(frozen=True, slots=True)
class PublishTarget:
    """`object_store` publishes to the store, `nccl` and `ipc` to each actor."""

    store: ActorHandle
    actors: tuple[ActorHandle, ...]
