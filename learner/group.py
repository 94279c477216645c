"""The learner's ranks as one, for the driver. Owns their processes and their placement.

```
 driver -- step(shards) --> rank 0 .. R-1   each reads its own shard out of the object store
                            all-gather, all-reduce among themselves
 driver <-- StepMetrics --- rank 0          (every rank has the same numbers)
```

Every wait has a timeout, says what it waited for, and looks after the others meanwhile (`on_wait`). A rank that is gone
is `LearnerLost`: close, start, load a checkpoint.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learner.errors import CheckpointNotWritten, InsufficientResources, LearnerLost
from learner.rank_process import RankProcess, rank_environment
from unisd_rl.cluster.cores import CorePlan
from unisd_rl.cluster.processes import Call, CallFailed, CallRaised, Handle, Place, ProcessDied, ProcessOptions
from unisd_rl.cluster.resources import describe_amounts, learner_bundle
from unisd_rl.cluster.runtime import runtime
from unisd_rl.cluster.waiting import CHECK_S, fetch, wait, wait_until
from unisd_rl.config import Config
from unisd_rl.errors import RunFailed
from unisd_rl.metrics import StepMetrics
from unisd_rl.storage.checkpoints import RunState
from unisd_rl.storage.logs import log_path
from unisd_rl.transport.weights.transport import PublishTarget
from unisd_rl.types import Logprobs, OnWait, PolicyVersion, Tokens, TokenSample, no_op

__all__ = ["CheckpointNotWritten", "InsufficientResources", "LearnerGroup", "LearnerLost"]


class LearnerGroup:
    """`learner.ranks` processes that train one student; they may be closed and started again.

    `on_wait` is called about once a second while the driver waits for the ranks; what it raises ends the wait.
    """

    def __init__(
        self, config: Config, plan: CorePlan, model_path: Path, run_dir: Path, on_wait: OnWait = no_op
    ) -> None:
        self._config, self._plan, self._model, self._run_dir = config, plan, model_path, run_dir
        self._on_wait = on_wait
        self.ranks: list[Handle] = []
        """The ranks' processes, in order; none before the start."""
        self._placement: Place | None = None
        self._pings: list[Call[None]] = []
        self._stepped = False

    def place(self) -> Place:
        """Reserve what the ranks need, unless it is.

        Raises:
            InsufficientResources: the cluster has no room for the ranks, naming what each needs.
        """
        return self._place() if self._placement is None else self._placement

    def start(self, timeout_s: float, checkpoint: Path | None = None, version: int = 0) -> None:
        """Place and start all ranks; returns when each has its model: the initial one, or `checkpoint`'s.

        Raises:
            InsufficientResources: the cluster has no room for the ranks, naming what each needs.
            LearnerLost: a rank died.
            RunFailed: a rank failed to start, or took longer than `timeout_s`.
        """
        placement = self.place()
        self.ranks = [self._spawn(rank, placement) for rank in range(self._config.learner.ranks)]
        deadline = time.monotonic() + timeout_s
        (address,) = self._wait([self.ranks[0].address.remote()], timeout_s, "name an address")
        self._call("start", *address, timeout_s=deadline - time.monotonic(), what="load the model and meet")
        if checkpoint is not None:
            self.load(checkpoint, version)

    def load(self, checkpoint: Path, version: int) -> None:
        """Resume from a verified checkpoint, left after `version` steps by any number of ranks.

        Raises:
            LearnerLost: a rank died.
            RunFailed: it is of another model.
        """
        timeout_s = self._config.run.start_timeout_s
        self._call("load", checkpoint.absolute(), version, timeout_s=timeout_s, what=f"load {checkpoint}")

    def step(
        self,
        shards: Sequence[Call[bytes] | bytes],
        version: int,
        timeout_s: float,
        lineage: int = 0,
        sampled: frozenset[int] = frozenset(),
    ) -> StepMetrics:
        """Train version `version` of `lineage` on one shard a rank (IPC bytes or references to them).

        Of the rollouts with these numbers (`sampled`), `token_samples` then has what was measured at each token.

        Raises:
            LearnerLost: a rank died, or the step took longer than `timeout_s` although one before did not: they hang.
            RunFailed: a check fired, or the first step took longer than `timeout_s`.
        """
        assert len(shards) == len(self.ranks), f"{len(shards)} shards for {len(self.ranks)} learner ranks"
        arguments = (version, lineage, sampled)
        calls = [rank.step.remote(shard, *arguments) for rank, shard in zip(self.ranks, shards, strict=True)]
        late = LearnerLost if self._stepped else RunFailed
        metrics = self._wait(calls, timeout_s, f"train step {version}", late)[0]
        self._stepped = True
        return metrics

    def token_samples(self) -> list[TokenSample]:
        """What the last step measured at each token of the rollouts that were to be sampled, in order of number."""
        calls = [rank.token_samples.remote() for rank in self.ranks]
        answers = self._wait(calls, self._config.run.step_timeout_s, "hand over its token samples")
        return sorted((sample for samples in answers for sample in samples), key=lambda sample: sample.number)

    def check(self) -> None:
        """Check that the ranks live while they have nothing to do. Never waits: what is seen may be a call old.

        Raises:
            LearnerLost: one died. One that cannot be reached for a while is asked again.
        """
        if self._pings:
            ended = runtime().wait(self._pings, 0.0, count=len(self._pings))
            self._pings = [ping for ping in self._pings if ping not in ended]
            for ping in ended:
                try:
                    fetch(ping)
                except ProcessDied as error:
                    raise LearnerLost(f"a learner rank died while others were waited for; {self._logs()}") from error
                except CallFailed:
                    continue
        if not self._pings:
            self._pings = [rank.ping.remote() for rank in self.ranks]

    def publish(self, version: PolicyVersion, target: PublishTarget) -> None:
        """Take the student's weights and send them on in the background; training may continue when this returns."""
        timeout_s = self._config.weights.timeout_s
        what = f"publish version {version.number}"
        self._call("publish", version, target, timeout_s, timeout_s=timeout_s, what=what)

    def logprobs(self, prompt_tokens: Tokens, completion_tokens: Tokens) -> Logprobs:
        """The student's log-prob of each completion token at the sampling temperature, float32."""
        timeout_s = self._config.run.step_timeout_s
        return self._call("logprobs", prompt_tokens, completion_tokens, timeout_s=timeout_s, what="score a completion")

    def save(self, path: Path, run_state: RunState | None = None) -> None:
        """Write the student as a folder that `AutoModelForCausalLM.from_pretrained` loads, tokenizer included.

        Only one with a `run_state` is a checkpoint that training can resume from.

        Raises:
            CheckpointNotWritten: the disk did not take it.
        """
        timeout_s = self._config.run.step_timeout_s
        self._call("save", path.absolute(), run_state, timeout_s=timeout_s, what=f"save {path}")

    def close(self) -> None:
        """End the processes and give their resources back; also after a start that failed."""
        for rank in self.ranks:
            runtime().kill(rank)
        self.ranks, self._pings, self._stepped = [], [], False
        if self._placement is not None:
            self._placement.give_back()
            self._placement = None

    def _place(self) -> Place:
        config, bundle = self._config, learner_bundle(self._config)
        limit_s, what = config.run.cluster_timeout_s, f"{config.learner.ranks} learner ranks"
        self._placement = placement = runtime().place([bundle] * config.learner.ranks)
        awaited = f"{what} of {describe_amounts(bundle)} each"
        if wait_until(lambda: placement.wait(CHECK_S), limit_s, awaited, self._on_wait):
            return placement
        self.close()
        free = describe_amounts(runtime().free(bundle))
        raise InsufficientResources(
            f"after {limit_s:g} s the cluster has no room for {awaited}; free now: {free}; "
            "add nodes or lower learner.ranks"
        )

    def _spawn(self, rank: int, placement: Place) -> Handle:
        config, bundle = self._config, learner_bundle(self._config)
        cores = self._plan.learner[rank] if self._plan.learner else ()
        # Colocated, the actor has nothing to do in the learner's turn.
        shared = not config.run.colocated and any(set(cores) & set(others) for others in self._plan.rollout)
        options = ProcessOptions(
            bundle,
            place=placement,
            index=rank,
            environment=rank_environment(config, cores),
            log=log_path(self._run_dir, f"learner-{rank}"),
        )
        arguments = (config, rank, cores, shared, self._model, self._run_dir.absolute())
        return runtime().spawn(RankProcess, *arguments, options=options)

    def _call(self, method: str, *arguments: Any, timeout_s: float, what: str) -> Any:
        """One method on every rank; rank 0's answer."""
        assert self.ranks, "the learner was not started"
        return self._wait([getattr(rank, method).remote(*arguments) for rank in self.ranks], timeout_s, what)[0]

    def _wait(
        self, calls: list[Call[Any]], timeout_s: float, what: str, late: type[RunFailed] = RunFailed
    ) -> list[Any]:
        """All answers; `late` is raised after `timeout_s`.

        The first rank that fails ends the wait: the others hang in a collective without it.
        """
        deadline_s, pending = time.monotonic() + timeout_s, list(calls)
        while pending:
            ended = wait(pending, deadline_s - time.monotonic(), self._on_wait)
            if not ended:
                raise late(f"the learner did not {what} within {timeout_s:g} s; {self._logs()}")
            self._answer(ended[0], what)
            pending.remove(ended[0])
        return [self._answer(call, what) for call in calls]

    def _answer(self, call: Call[Any], what: str) -> Any:
        try:
            return fetch(call)
        except CallFailed as error:
            # A shard that is lost: one rank has its share and waits for the others.
            mended = not isinstance(error, CallRaised) or isinstance(error.cause, runtime().lost)
            kind = LearnerLost if mended else RunFailed
            raise kind(f"a learner rank could not {what}: {error}; {self._logs()}") from error

    def _logs(self) -> str:
        return f"see {self._run_dir / 'logs'}/learner-*.log"
