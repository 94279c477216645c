"""The process that measures retention, and its owner in the driver, asked after an evaluation.

```
 driver -- examples, answers --> tokens (those that were sampled; gold text is tokenised once)
        -- folder of the adapted model --> process: base, adapted -- Retention --> driver
```

Nothing heavy is imported before `RetentionProcess.start`: torch reads the environment when it is imported.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisd_rl.cluster.cores import BRIEF_SPINNING, CorePlan, Cores, bind_to
from unisd_rl.cluster.processes import Call, CallFailed, ProcessOptions
from unisd_rl.cluster.resources import retention_bundle
from unisd_rl.cluster.runtime import runtime
from unisd_rl.cluster.shared_model import check_model_seen
from unisd_rl.cluster.waiting import fetch, wait
from unisd_rl.config import Config
from unisd_rl.config.evaluation import RetentionConfig
from unisd_rl.errors import RunFailed
from unisd_rl.evaluation.retention import Completion, Retention
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.storage.logs import log_path, redirect_output
from unisd_rl.types import Answer, Example, OnWait, no_op

if TYPE_CHECKING:
    from learner.model import CausalLM

NAME = "retention"


class RetentionProcess:
    """A process that reads completions with the base, which it keeps, and with one adapted model after the other.

    A plain class; `RetentionScorer` spawns it.
    """

    def __init__(self, config: Config, settings: RetentionConfig, cores: Cores, base: Path, run_dir: Path) -> None:
        self._dtype, self._settings, self._cores, self._path = config.model.dtype, settings, cores, base
        self._base: CausalLM | None = None
        check_model_seen("retention", base)
        if runtime().separate:
            redirect_output(log_path(run_dir, NAME))
            bind_to(cores)

    def start(self) -> None:
        """Load the base.

        Raises:
            UserError: it cannot be read with (see `learner.model.load_model`).
        """
        import torch

        if self._cores:
            torch.set_num_threads(len(self._cores))
        self._base = self._load(self._path)

    def measure(self, adapted: Path, gold: Sequence[Completion], answers: Sequence[Completion]) -> Retention:
        """Load the adapted model, read with both, and drop it again; see `retention_measure.retention`."""
        from unisd_rl.evaluation.retention_measure import Sizes, retention

        assert self._base is not None, "the scorer was not started"
        sizes = Sizes(self._settings.batch_size, self._settings.chunk_tokens)
        return retention(self._load(adapted), self._base, gold, answers, sizes)

    def _load(self, path: Path) -> "CausalLM":
        from learner.model import load_model

        device = "cuda" if self._settings.gpus else "cpu"
        return load_model(path, self._dtype).eval().to(device)


class RetentionScorer:
    """Owner of the process. `base` is the initial model, whose tokenizer all tokens come from."""

    def __init__(self, config: Config, settings: RetentionConfig, cores: Cores, base: Path, run_dir: Path) -> None:
        self._config, self._settings, self._log = config, settings, log_path(run_dir, NAME)
        self._tokenizer = ChatTokenizer(base, config.model.chat_template)
        options = ProcessOptions(retention_bundle(settings), environment=_environment(settings, cores), log=self._log)
        arguments = (config, settings, cores, base, run_dir.absolute())
        self._process = runtime().spawn(RetentionProcess, *arguments, options=options)

    def start(self, timeout_s: float) -> None:
        """Load the base.

        Raises:
            UserError: it cannot be read with.
            RunFailed: it was not loaded within `timeout_s`.
        """
        self._result(self._process.start.remote(), timeout_s, "load the base model")

    def measure(
        self,
        adapted: Path,
        examples: Sequence[Example],
        answers: Sequence[Answer],
        on_wait: OnWait = no_op,
    ) -> Retention:
        """Retention of the model at `adapted`, whose `answers` these are, on the first `examples` of the settings.

        Meanwhile `on_wait` is called about once a second; what it raises ends the wait.

        Raises:
            UserError: the two models do not belong together.
            RunFailed: the process died, or took longer than `run.step_timeout_s`.
        """
        examples = examples[: self._settings.examples]
        ids = {example.id for example in examples}
        answers = [answer for answer in answers if answer.id in ids]
        prompts = {answer.id: tuple(answer.prompt_tokens.tolist()) for answer in answers}
        gold = [
            Completion(
                id=example.id,
                sample=0,
                prompt_tokens=prompts[example.id],
                tokens=tuple(self._tokenizer.encode_completion(example.demonstration).tolist()),
            )
            for example in examples
        ]
        own = [
            Completion(answer.id, answer.sample, prompts[answer.id], tuple(answer.generation.tokens.tolist()))
            for answer in answers
        ]
        call = self._process.measure.remote(adapted, gold, own)
        return self._result(call, self._config.run.step_timeout_s, "read the answers (run.step_timeout_s)", on_wait)

    def close(self) -> None:
        """End the process."""
        runtime().kill(self._process)

    def _result(self, call: Call[Any], timeout_s: float, what: str, on_wait: OnWait = no_op) -> Any:
        if not wait([call], timeout_s, on_wait):
            raise RunFailed(f"waited {timeout_s:.0f} s for retention to {what}; its log is {self._log}")
        try:
            return fetch(call)
        except CallFailed as error:
            raise RunFailed(f"retention could not {what}: {error}; its log is {self._log}") from error


def _environment(settings: RetentionConfig, cores: Cores) -> dict[str, str]:
    variables = {"TOKENIZERS_PARALLELISM": "false", **BRIEF_SPINNING}
    if cores:
        variables["OMP_NUM_THREADS"] = str(len(cores))
    if not settings.gpus:
        variables["DS_ACCELERATOR"] = "cpu"
    return variables


def retention_scorer(
    config: Config, plan: CorePlan, base: Path, run_dir: Path, stack: ExitStack
) -> RetentionScorer | None:
    """The scorer of retention against `base`, started, and closed with `stack`; None where it is not configured.

    On the CPU it has the learner's cores, or the actors' where there is no learner: those are idle meanwhile.
    """
    settings = config.evaluation.retention
    if settings is None:
        return None
    cores = () if settings.gpus else tuple(sorted({core for cores in plan.learner or plan.rollout for core in cores}))
    scorer = RetentionScorer(config, settings, cores, base, run_dir)
    stack.callback(scorer.close)
    scorer.start(config.run.start_timeout_s)
    return scorer
