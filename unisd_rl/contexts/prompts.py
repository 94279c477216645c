"""The numbered stream of prompts: what a run trains on, and in which order.

Prompt `number` is a pure function of the configuration and the data: a resumed run goes on with the
same prompts, and any process can say what prompt 4711 was. Whatever is filtered is filtered before
numbering (`selection.py`), so that batch k is always the prompts kB .. kB+B-1, without holes.
"""

from dataclasses import dataclass, replace

import numpy as np
import xxhash
from numpy.typing import NDArray

from unisd_rl.config import Config
from unisd_rl.config.rollout import SourcesConfig
from unisd_rl.contexts.auxiliary import StepDonors
from unisd_rl.contexts.views import Contexts, prompt_for
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.task import Task
from unisd_rl.types import Example, NumberedPrompt, Prompt, Source


@dataclass(frozen=True, slots=True)
class PreparationReport:
    """What became of the training problems: `examples = kept + dropped`. `held_out`: problems to evaluate on.

    `too_long`: a view, or a gold completion that is trained on, is over its limit. `without_views`: fewer contexts than
    views were asked for can be shown without giving the answer away. Of the kept ones `without_negative` have no wrong
    demonstration, and `borrowed` have another problem's solution for one; `right` and `implausible` candidates for one
    were discarded, over all problems.
    """

    examples: int
    kept: int
    too_long: int = 0
    without_views: int = 0
    without_negative: int = 0
    right: int = 0
    implausible: int = 0
    held_out: int = 0
    borrowed: int = 0

    @property
    def dropped(self) -> int:
        """Problems that are not trained on."""
        return self.too_long + self.without_views

    def describe(self) -> str:
        """One line for the console."""
        line = f"{self.kept} of {self.examples} problems, {self.held_out} held out"
        if self.dropped:
            line += f", {self.too_long} dropped as too long, {self.without_views} without enough non-leaking contexts"
        if self.without_negative or self.right or self.implausible:
            line += (
                f"; {self.without_negative} have no wrong demonstration ({self.right} candidates discarded as right, "
                f"{self.implausible} as implausible)"
            )
        if self.borrowed:
            line += (
                f"; {self.borrowed} wrong demonstrations are solutions of other problems, as the problem's own could "
                'not be made wrong (contexts.negative.type = "generated" has the model write one)'
            )
        return line


@dataclass(frozen=True, slots=True)
class Prepared:
    """The problems that are trained on, in the task's order, and the contexts of each at the same place.

    Never by id: where two problems had the same one, each would be shown with the other's answer.
    """

    kept: tuple[Example, ...]
    contexts: tuple[Contexts, ...]
    report: PreparationReport
    step_donors: StepDonors | None = None
    """Where auxiliary views read donors of their step, these take the place of the prepared ones."""


class PromptStream:
    """Epoch after epoch of the problems that were kept, each epoch in its own seeded order."""

    def __init__(self, task: Task, config: Config, prepared: Prepared) -> None:
        self._task = task
        self._config = config
        self._prepared = prepared
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """Prompts in an epoch."""
        return len(self._prepared.kept)

    @property
    def preparation(self) -> PreparationReport:
        """What became of the training problems."""
        return self._prepared.report

    @property
    def checksum(self) -> str:
        """xxh3-64 of every problem that is trained on and its contexts, in order: equal ones are the same prompts.

        Values by their names, so that a new field of `Example` or `Contexts` refuses no older run. How they are written
        is part of the value: runs note it.
        """
        digest = xxhash.xxh3_64()
        for example, contexts in zip(self._prepared.kept, self._prepared.contexts, strict=True):
            digest.update(
                (
                    f"(Example(id={example.id!r}, question={example.question!r}, "
                    f"demonstration={example.demonstration!r}, answer={example.answer!r}), "
                    f"Contexts(auxiliary={contexts.auxiliary!r}, negative={contexts.negative!r}))"
                ).encode()
            )
        return digest.hexdigest()

    def prompt(self, number: int) -> NumberedPrompt:
        """Prompt `number` >= 0, with the seed of its sampling and the source of its completion."""
        epoch, position = divmod(number, len(self))
        index, seed = int(self._epoch_order(epoch)[position]), self._config.run.seed
        source = source_of(number, seed, self._config.rollout.sources)
        prompt = prompt_of(self._task, self._config, self._prepared.kept[index], self._contexts(index, number))
        return NumberedPrompt(number, derive_seed(seed, "sampling", number), prompt, source)

    def _contexts(self, index: int, number: int) -> Contexts:
        """The contexts of the problem at this index where it is prompt `number`."""
        contexts, donors = self._prepared.contexts[index], self._prepared.step_donors
        if donors is None:
            return contexts
        step = number // self._config.learner.batch_size
        return replace(contexts, auxiliary=donors.for_example(self._prepared.kept[index], step, contexts.auxiliary))

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            draw = np.random.default_rng(derive_seed(self._config.run.seed, "epoch", epoch))
            self._order = epoch, draw.permutation(len(self))
        return self._order[1]


def prompt_of(task: Task, config: Config, example: Example, contexts: Contexts) -> Prompt:
    """With the views, where some term reads a teacher, and the gold completion, where the run trains on any."""
    views = prompt_for(task, example, contexts, config.contexts.order).views if config.reads_teacher else ()
    gold = example.demonstration if config.rollout.sources.gold else None
    return Prompt(example.id, task.student_messages(example), views, gold)


def source_of(number: int, seed: int, shares: SourcesConfig) -> Source:
    """Who completes prompt `number` of a run: a draw by the shares, and a pure function of its arguments."""
    others = [source for source, share in ((Source.POLICY, shares.policy), (Source.BASE, shares.base)) if share]
    drawn = derive_seed(seed, "source", number) / 2**31
    return Source.GOLD if drawn < shares.gold or not others else others[0]
