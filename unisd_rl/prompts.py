"""The numbered stream of prompts: what a run trains on, in which order.

Prompt `number` is a pure function of the configuration and the data: a resumed run goes on with the
same prompts, and any process can say what prompt 4711 was. Whatever is filtered is filtered before
numbering, so that batch k is always the prompts kB .. kB+B-1, without holes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unisd_rl.config import Config, SourcesConfig
from unisd_rl.contexts.build import prompt_for
from unisd_rl.errors import UserError
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.task import Task
from unisd_rl.types import Example, NumberedPrompt, Prompt, Source, ViewKind

LARGEST_DROPPED_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class PreparationReport:
    """What became of the training examples: `examples = kept + dropped`; some kept ones have no negative view."""

    examples: int
    kept: int
    dropped: int
    without_negative: int


class PromptStream:
    """Epoch after epoch of the examples that fit, each epoch in its own seeded order."""

    def __init__(self, task: Task, config: Config, fits: Callable[[Prompt], bool]) -> None:
        """Build every prompt once and drop those that `fits` refuses: neither a view nor a gold completion is ever cut.

        Raises:
            UserError: if more than 5 % of the examples are dropped, a held-out problem is too long, or there are too
                few donors.
        """
        self._task = task
        self._config = config
        self._kept, self.preparation = self._prepare(fits)
        self._refuse_long_questions(fits)
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """Prompts in an epoch."""
        return len(self._kept)

    def prompt(self, number: int) -> NumberedPrompt:
        """Prompt `number` >= 0, with the seed of its sampling and the source of its completion."""
        epoch, position = divmod(number, len(self._kept))
        example, seed = self._kept[int(self._epoch_order(epoch)[position])], self._config.run.seed
        source = source_of(number, seed, self._config.rollout.sources)
        return NumberedPrompt(number, derive_seed(seed, "sampling", number), self._prompt_for(example), source)

    def _prompt_for(self, example: Example) -> Prompt:
        """With the views that some term reads, and the gold completion where the run trains on any."""
        config, prompt = self._config, Prompt(example.id, self._task.student_messages(example), ())
        if config.reads_teacher:
            prompt = prompt_for(self._task, example, config.contexts_read, config.run.seed)
        return replace(prompt, gold=example.demonstration if config.rollout.sources.gold else None)

    def _prepare(self, fits: Callable[[Prompt], bool]) -> tuple[list[Example], PreparationReport]:
        kept, without_negative = list[Example](), 0
        for example in self._task.train:
            prompt = self._prompt_for(example)
            if fits(prompt):
                kept.append(example)
                without_negative += all(view.kind is not ViewKind.NEGATIVE for view in prompt.views)
        total = len(self._task.train)
        report = PreparationReport(total, len(kept), total - len(kept), without_negative)
        if report.dropped > LARGEST_DROPPED_SHARE * total:
            limits = self._config.rollout
            gold = f" or a gold completion longer than rollout.max_completion_tokens = {limits.max_completion_tokens}"
            raise UserError(
                f"{report.dropped} of {total} problems have a view longer than rollout.max_prompt_tokens = "
                f"{limits.max_prompt_tokens}{gold if limits.sources.gold else ''}, more than 5 %: raise the limit or "
                "shorten the records"
            )
        return kept, report

    def _refuse_long_questions(self, fits: Callable[[Prompt], bool]) -> None:
        """Held-out problems are not dropped: the accuracy would be of fewer, and of easier ones."""
        task = self._task
        too_long = sum(not fits(Prompt(one.id, task.student_messages(one), ())) for one in task.evaluation)
        if too_long:
            raise UserError(
                f"{too_long} of {len(task.evaluation)} held-out problems are longer than rollout.max_prompt_tokens = "
                f"{self._config.rollout.max_prompt_tokens}: raise it, or take them out of the data"
            )

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            draw = np.random.default_rng(derive_seed(self._config.run.seed, "epoch", epoch))
            self._order = epoch, draw.permutation(len(self._kept))
        return self._order[1]


def source_of(number: int, seed: int, shares: SourcesConfig) -> Source:
    """Who completes prompt `number` of a run: a draw by the shares, and a pure function of its arguments."""
    others = [source for source, share in ((Source.POLICY, shares.policy), (Source.BASE, shares.base)) if share]
    drawn = derive_seed(seed, "source", number) / 2**31
    return Source.GOLD if drawn < shares.gold or not others else others[0]
