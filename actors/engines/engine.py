"""The engine inside a rollout actor: its protocol, and the types both sides use.

```
tokens --generate--> Generation (token, log-prob and policy version of each)
snapshot --receive--> weights replaced between two tokens; requests in flight go on
```
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unisd_rl.cluster.cores import Cores
from unisd_rl.config.model import LoraConfig
from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest
from unisd_rl.types import Generation, PolicyVersion, Sampling, Tokens

NO_WEIGHTS = PolicyVersion(lineage=0, number=-1)
"""Version of an engine that has received no snapshot yet."""


class EngineDied(Exception):
    """The engine cannot generate any more; nothing in this process mends it."""


class EngineProcessDied(EngineDied):
    """A process of the engine's own ended; what it died of stands in the log, if it could still say it."""


class EngineRefused(EngineDied):
    """The engine cannot work with this model, this input or this machine: another start would end the same way."""


class PromptFailed(Exception):
    """The engine could not answer this one prompt; others go on."""


@dataclass(frozen=True, slots=True)
class GroupShape:
    """Every group is computed as `rows` rows of prompts padded to `prompt_tokens`, whatever arrived.

    A numbered prompt (`Sampling.number`) has row `number` mod `rows`. So the bits of a completion follow from the
    weights and the prompt, and not from when others arrive, if no update falls into it, as with
    `rollout.max_staleness` 0: after an update what was generated so far is computed again, in another shape.
    """

    rows: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What any engine must know.

    `max_model_len`: longest prompt plus completion, in tokens. `concurrency`: most requests computed at
    a time. `stop_tokens` end a completion and are part of it. `verify`: compare checksums of weights.
    `adapter`: snapshots are the factors of such an adapter, and the model stays as it is; None where they are the
    whole model. `cores` empty leaves threads to the system. `group`: prompts that are leased in units are generated in
    them, by engines that compute in groups at all; None lets groups be as large and as long as what there is to do.
    """

    model_path: Path
    dtype: str
    cores: Cores
    max_model_len: int
    concurrency: int
    stop_tokens: tuple[int, ...]
    verify: bool
    seed: int
    adapter: LoraConfig | None
    group: GroupShape | None = None


@dataclass(frozen=True, slots=True)
class PauseReport:
    """One weight update: `pause_ms` without a new token, of which `load_ms` went into loading; bytes received."""

    version: PolicyVersion
    pause_ms: float
    load_ms: float
    nbytes: int


class RolloutEngine(Protocol):
    """A generator whose weights can be replaced while it generates."""

    async def start(self) -> None:
        """Load the model. Raises `EngineDied` if that fails."""
        ...

    async def generate(self, tokens: Tokens, sampling: Sampling) -> Generation:
        """Answer one prompt; any number of calls run together.

        Log-probs are of the distribution sampled from: at the sampling temperature, renormalised where
        top_k and top_p cut it, and at temperature 1 for greedy answers.

        Raises:
            PromptFailed: this prompt cannot be answered, e.g. it is too long.
            EngineDied: no prompt can.
        """
        ...

    async def receive(self, manifest: SnapshotManifest, buckets: Sequence[Bytes]) -> PauseReport:
        """Replace the weights between two tokens; tokens after it carry the manifest's version.

        Raises:
            UpdateRefused: the bytes are not those of the manifest, or an adapter is for another model; nothing
                was changed.
            EngineDied: the update failed half way.
        """
        ...

    async def sleep(self) -> None:
        """Give the memory of a GPU that a learner shares back, with nothing in flight, until the next `generate`; does
        nothing elsewhere. Weights that arrive meanwhile are loaded by then.

        Raises:
            EngineDied: it could not.
        """
        ...

    @property
    def version(self) -> PolicyVersion:
        """The version that tokens sampled from now on carry."""
        ...

    @property
    def tokens(self) -> int:
        """A count that changes with every token made, also of answers that are not finished."""
        ...

    @property
    def paused(self) -> bool:
        """Whether an update holds generation up right now."""
        ...

    async def close(self) -> None:
        """Give up model, memory and processes. May be called twice."""
        ...
