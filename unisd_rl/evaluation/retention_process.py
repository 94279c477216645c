"""The process that holds base and adapted model. A plain class; `scorer.py` makes it a Ray actor.

Nothing heavy is imported before `start`: torch reads the environment when it is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unisd_rl.cluster.cores import Cores, bind_to
from unisd_rl.cluster.logs import log_path, redirect_output
from unisd_rl.config import Config, RetentionConfig
from unisd_rl.evaluation.retention import Completion, Retention

if TYPE_CHECKING:
    from learner.model import Reader

NAME = "retention"


class RetentionProcess:
    """Reads with the base, which it keeps, and with one adapted model after the other."""

    def __init__(self, config: Config, settings: RetentionConfig, cores: Cores, base: Path, run_dir: Path) -> None:
        self._dtype, self._settings, self._cores, self._path = config.model.dtype, settings, cores, base
        self._base: Reader | None = None
        redirect_output(log_path(run_dir, NAME))
        bind_to(cores)

    def start(self) -> None:
        """Load the base.

        Raises:
            UserError: it cannot be read with (see `learner.model.load_reader`).
        """
        import torch

        if self._cores:
            torch.set_num_threads(len(self._cores))
        self._base = self._load(self._path)

    def measure(self, adapted: Path, gold: Sequence[Completion], answers: Sequence[Completion]) -> Retention:
        """Load the adapted model, read, and forget it. See `retention.measure.retention`."""
        from unisd_rl.evaluation.retention_measure import Sizes, retention

        assert self._base is not None, "the scorer was not started"
        sizes = Sizes(self._settings.batch_size, self._settings.chunk_tokens)
        return retention(self._load(adapted), self._base, gold, answers, sizes)

    def _load(self, path: Path) -> "Reader":
        import torch

        from learner.model import load_reader

        device = "cuda" if self._settings.gpus else "cpu"
        return load_reader(path, getattr(torch, self._dtype)).eval().to(device)
