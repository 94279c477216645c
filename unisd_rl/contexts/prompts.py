"""The numbered stream of prompts: what a run trains on, and in which order.

Prompt `number` is a pure function of the configuration and the data: a resumed run goes on with the
same prompts, and any process can say what prompt 4711 was. Whatever is filtered is filtered before
numbering (`selection.py`), so that batch k is always the prompts kB .. kB+B-1, without holes.

    number   0 1 2 3 | 4 5 6 7 | 8 ...       G = 4 answers per prompt
    group       0    |    1    | 2 ...       place g of the stream: problem, views, source
    seed     one of each number

A number is a completion's. With `rollout.answers_per_prompt` G, numbers gG .. gG+G-1 are group g: the problem at place
g, with one source and the same views, sampled with a seed of each number's own.
"""

from collections.abc import Iterable, Sequence
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
    longest: int = 0
    """Tokens of the longest view or gold completion among those too long, that of problem `longest_id`."""
    longest_id: str = ""

    @property
    def dropped(self) -> int:
        """Problems that are not trained on."""
        return self.too_long + self.without_views

    def describe(self) -> str:
        """One line for the console."""
        line = f"{self.kept} of {self.examples} problems, {self.held_out} held out"
        if self.dropped:
            longest = f" (the longest, {self.longest_id!r}, has {self.longest} tokens)" if self.longest else ""
            line += f", {self.too_long} dropped as too long{longest}"
            line += f", {self.without_views} without enough non-leaking contexts"
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

    kept: Sequence[Example]
    contexts: Sequence[Contexts]
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
        self._newest: tuple[int, Prompt] | None = None

    def __len__(self) -> int:
        """Problems in an epoch."""
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
                    f"demonstration={example.demonstration!r}, answer={example.answer!r}{_chat_text(example)}), "
                    f"Contexts(auxiliary={contexts.auxiliary!r}, negative={contexts.negative!r}{_another(contexts)}))"
                ).encode()
            )
        return digest.hexdigest()

    def prompt(self, number: int) -> NumberedPrompt:
        """Prompt `number` >= 0, with the seed of its sampling and the source of its completion."""
        group, seed = number // self._config.rollout.answers_per_prompt, self._config.run.seed
        source = source_of(group, seed, self._config.rollout.sources)
        return NumberedPrompt(number, derive_seed(seed, "sampling", number), self.problem(group), source)

    def problem(self, place: int) -> Prompt:
        """The problem at `place` >= 0 of the stream with its views: one object for a whole group, which is then
        pickled once."""
        if self._newest is None or self._newest[0] != place:
            self._newest = place, prompt_of(self._task, self._config, self.example(place), self._contexts(place))
        return self._newest[1]

    def example(self, place: int) -> Example:
        """The same as the task gives it, with its reference answer."""
        return self._prepared.kept[self.index(place)]

    def places(self, problem: int, epochs: Iterable[int]) -> list[int]:
        """Where the problem with this index, in the task's order, stands in each of these epochs."""
        return [epoch * len(self) + int(np.flatnonzero(self._epoch(epoch) == problem)[0]) for epoch in epochs]

    def index(self, place: int) -> int:
        """Of the problem at `place`, in the task's order."""
        epoch, position = divmod(place, len(self))
        return int(self._epoch(epoch)[position])

    def _contexts(self, place: int) -> Contexts:
        """The contexts of the problem at this place, in the step that trains on it there."""
        contexts, donors = self._prepared.contexts[self.index(place)], self._prepared.step_donors
        if donors is None:
            return contexts
        step = place * self._config.rollout.answers_per_prompt // self._config.learner.batch_size
        return replace(contexts, auxiliary=donors.for_example(self.example(place), step, contexts.auxiliary))

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            draw = np.random.default_rng(derive_seed(self._config.run.seed, "epoch", epoch))
            self._order = epoch, draw.permutation(len(self))
        return self._order[1]


def _chat_text(example: Example) -> str:
    return f", chat={[turn.texts for turn in example.chat]!r}" if example.chat else ""


def _another(contexts: Contexts) -> str:
    return "" if contexts.another is None else f", another={contexts.another!r}"


def prompt_of(task: Task, config: Config, example: Example, contexts: Contexts) -> Prompt:
    """With the views, where some term reads a teacher, and the gold completion, where the run trains on any."""
    read = config.contexts
    views = prompt_for(task, example, contexts, read.order, read.primary).views if config.reads_teacher else ()
    gold = example.demonstration if config.rollout.sources.gold else None
    return Prompt(example.id, task.student_messages(example), views, gold)


def source_of(group: int, seed: int, shares: SourcesConfig) -> Source:
    """Who completes group `group` of a run: a draw by the shares, and a pure function of its arguments."""
    others = [source for source, share in ((Source.POLICY, shares.policy), (Source.BASE, shares.base)) if share]
    drawn = derive_seed(seed, "source", group) / 2**31
    return Source.GOLD if drawn < shares.gold or not others else others[0]
