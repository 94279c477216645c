"""One learner rank: a process with cores, a log file and a place among the ranks.

Nothing heavy is imported before `start`: torch and DeepSpeed read the environment and the cores when they are.
"""

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from learner.errors import translate_collective_errors
from unisd_rl.cluster.cores import BRIEF_SPINNING, Cores, bind_to
from unisd_rl.cluster.resources import keep_compiler_caches, missing_to_compile
from unisd_rl.cluster.runtime import runtime
from unisd_rl.cluster.shared_model import check_model_seen
from unisd_rl.config import Config
from unisd_rl.errors import UserError
from unisd_rl.metrics import StepMetrics
from unisd_rl.storage.checkpoints import RunState
from unisd_rl.storage.logs import log_path, redirect_output
from unisd_rl.storage.timeline import Track
from unisd_rl.transport.weights.transport import PublishTarget
from unisd_rl.types import Logprobs, PolicyVersion, Tokens, TokenSample

if TYPE_CHECKING:
    from learner.learner import Learner
    from unisd_rl.transport.weights.transport import WeightPublisher

_NICENESS = 5


def rank_environment(config: Config, cores: Cores) -> dict[str, str]:
    """Environment variables of a rank's process. Idle threads sleep soon: spinning, they starve the engine."""
    variables = {"TOKENIZERS_PARALLELISM": "false", **BRIEF_SPINNING}
    if cores:
        variables["OMP_NUM_THREADS"] = str(len(cores))
    if not config.learner.gpus_per_rank:
        variables["DS_ACCELERATOR"] = "cpu"
    return variables


class RankProcess:
    """A plain class that `LearnerGroup` spawns; rank 0 is the one that writes and publishes."""

    def __init__(self, config: Config, rank: int, cores: Cores, shares_cores: bool, model: Path, run_dir: Path) -> None:
        self._config, self._rank, self._cores, self._model = config, rank, cores, model
        self._learner: Learner | None = None
        self._publisher: WeightPublisher | None = None
        self._run_dir, self._sees_run = run_dir, run_dir.is_dir()
        if self._sees_run and runtime().separate:
            redirect_output(log_path(run_dir, f"learner-{rank}"))
        self._track = Track(run_dir, f"learner-{rank}")
        keep_compiler_caches()
        if runtime().separate:
            bind_to(cores)
        if shares_cores:
            os.nice(_NICENESS)  # the rollout actors' engines have to be served first, or the learner waits for them

    def address(self) -> tuple[str, int]:
        """A host and a free port at which the ranks may meet."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return runtime().address(), probe.getsockname()[1]

    def ping(self) -> None:
        """That this process lives, between two calls."""

    @translate_collective_errors()
    def start(self, host: str, port: int) -> None:
        """Meet the other ranks, load the model, build the engines.

        Raises:
            UserError: this node does not see the run's folder or the model's, or cannot compile the kernels of its GPU.
        """
        own = runtime().address()
        if not self._sees_run:
            raise UserError(
                f"learner rank {self._rank} on node {own} does not see {self._run_dir}, where checkpoints go; "
                "set run.dir to a folder that all nodes share"
            )
        check_model_seen(f"learner rank {self._rank}", self._model)
        if interface := network_interface_for(own):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        gpus = bool(self._config.learner.gpus_per_rank)
        if gpus and (lacking := missing_to_compile()):
            raise UserError(f"learner rank {self._rank} on node {own}: {lacking}")
        os.environ |= {
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
            "RANK": str(self._rank),
            "WORLD_SIZE": str(self._config.learner.ranks),
            "LOCAL_RANK": "0" if gpus else str(self._rank),  # Ray shows each rank its own GPU only
        }

        from learner.learner import Learner
        from learner.sharding import init_process_group

        device = init_process_group(gpus, len(self._cores), self._config.run.step_timeout_s)
        self._learner = Learner(self._config, self._model, device)
        self._free_cached()

    @translate_collective_errors()
    def load(self, checkpoint: Path, version: int) -> None:
        """`Learner.load`."""
        self._ready().load(checkpoint, version)
        self._free_cached()

    @translate_collective_errors()
    def step(self, data: bytes, version: int, lineage: int, sampled: frozenset[int] = frozenset()) -> StepMetrics:
        """`Learner.step`."""
        learner = self._ready()
        with self._track.span("step", step=version, lineage=lineage):
            metrics = learner.step(data, version, lineage, sampled)
        self._free_cached()
        for part, started_s, seconds in learner.timer.spans:
            self._track.add(part, started_s, seconds, step=version)
        self._track.flush()
        return metrics

    def token_samples(self) -> list[TokenSample]:
        """Of the last step, what was asked for of this rank's rollouts."""
        return self._ready().samples

    @translate_collective_errors()
    def publish(self, version: PolicyVersion, target: PublishTarget, timeout_s: float) -> None:
        """Take the weights with all ranks; rank 0 sends them on in the background, after those before are gone."""
        with self._track.span("publish", version=version.number, lineage=version.lineage):
            self._take_weights(version, target, timeout_s)
        self._free_cached()
        self._track.flush()

    def _take_weights(self, version: PolicyVersion, target: PublishTarget, timeout_s: float) -> None:
        weights = self._ready().weights()
        if self._rank > 0:
            for _ in weights:
                pass
            return
        from unisd_rl.transport.weights.build import weight_transport

        if self._publisher is None:
            self._publisher = weight_transport(self._config).publisher(target)
        self._publisher.wait(timeout_s)
        self._publisher.publish(version, weights)

    @translate_collective_errors()
    def logprobs(self, prompt: Tokens, completion: Tokens) -> Logprobs:
        """`Learner.logprobs`."""
        logprobs = self._ready().logprobs(prompt, completion)
        self._free_cached()
        return logprobs

    @translate_collective_errors()
    def save(self, path: Path, run_state: RunState | None) -> None:
        """`Learner.save`; rank 0 writes."""
        with self._track.span("save", what=path.name):
            self._ready().save(path, write=self._rank == 0, run_state=run_state)
        self._free_cached()
        self._track.flush()

    def _free_cached(self) -> None:
        """Give blocks that torch keeps for later back to a GPU on which the engine takes its turn next."""
        if self._config.turns_on_gpu:
            import torch

            torch.cuda.empty_cache()

    def _ready(self) -> "Learner":
        assert self._learner is not None, "the learner was not started"
        return self._learner


def network_interface_for(address: str) -> str | None:
    """The name of this machine's interface with this IPv4 address, e.g. `eth0`; None where none has it.

    gloo listens where the machine's own name leads, and on many Linux machines that is the loopback, where ranks on
    other machines look for it in vain. So each rank tells it the interface by which Ray's nodes know each other.
    """
    for name, addresses in psutil.net_if_addrs().items():
        if any(candidate.address == address for candidate in addresses):
            return name
    return None
