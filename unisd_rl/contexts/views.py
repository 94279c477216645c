"""From the configuration to the makers of contexts, and from one problem's contexts to its prompt.

```
Example --References.of--> what its auxiliary views read --+
        --Candidates.propose, graded--> a wrong solution --+--> Contexts --prompt_for--> Prompt with every View
```
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from unisd_rl.config.contexts import (
    AuxiliaryConfig,
    CorruptionNegative,
    InductionAuxiliary,
    NegativeConfig,
    PerturbationNegative,
    ProgramMutationsNegative,
    RandomAuxiliary,
    RetrievalAuxiliary,
    TaskNegative,
)
from unisd_rl.contexts.auxiliary import RandomReferences, References
from unisd_rl.contexts.corruption import Corruption
from unisd_rl.contexts.induction import InductionReferences, Instruction
from unisd_rl.contexts.negatives import Candidates, FromEach, Write, WrittenCandidates, bug_candidates
from unisd_rl.contexts.perturbation import perturbed
from unisd_rl.contexts.retrieval import Bm25, Embeddings, NeighbourReferences
from unisd_rl.contexts.templates import with_demonstration, with_reference
from unisd_rl.types import Example, Message, Prompt, View, ViewKind


class Problems(Protocol):
    """The part of a task that contexts need; every `Task` has it."""

    @property
    def train(self) -> Sequence[Example]:
        """The pool of donors."""
        ...

    def student_messages(self, example: Example) -> tuple[Message, ...]:
        """What the student reads."""
        ...

    def grade(self, completion: str, example: Example) -> bool:
        """Whether a text states the right answer."""
        ...

    def wrong_demonstrations(self, example: Example, seed: int) -> Iterator[str]:
        """Candidates for the negative view."""
        ...


@dataclass(frozen=True, slots=True)
class Contexts:
    """What the views of one problem read beside its prompt; made once in preparation.

    A problem without a verified wrong demonstration has no negative view.
    """

    auxiliary: tuple[str, ...] = ()
    negative: str | None = None


def prompt_for(task: Problems, example: Example, contexts: Contexts) -> Prompt:
    """The prompt of an example: primary view first, then the auxiliary ones, then the negative one."""
    chat = task.student_messages(example)
    views = [View(ViewKind.PRIMARY, with_demonstration(chat, example.demonstration))]
    views += [View(ViewKind.AUXILIARY, with_reference(chat, reference)) for reference in contexts.auxiliary]
    if contexts.negative is not None:
        views.append(View(ViewKind.NEGATIVE, with_demonstration(chat, contexts.negative)))
    return Prompt(example.id, chat, tuple(views))


def references(
    config: AuxiliaryConfig, task: Problems, seed: int, instructions: Callable[[], Sequence[Instruction]]
) -> References:
    """What auxiliary views read, as configured; `instructions` is asked for the pool only where one is needed.

    Raises:
        UserError: an embedding model does not load.
    """
    match config:
        case RandomAuxiliary():
            return RandomReferences(task.train, config.views, seed)
        case RetrievalAuxiliary():
            questions = [example.question for example in task.train]
            similarity = Bm25(questions) if config.model is None else Embeddings(questions, config.model)
            return NeighbourReferences(task.train, similarity, config.views, seed)
        case InductionAuxiliary():
            return InductionReferences(instructions(), config.views, seed)


def candidates(config: NegativeConfig, task: Problems, seed: int, write: Write) -> Candidates:
    """Where wrong demonstrations come from, as configured; `write` is called only where the model writes them."""
    match config:
        case TaskNegative():
            return FromEach(lambda example: task.wrong_demonstrations(example, seed))
        case CorruptionNegative():
            return FromEach(Corruption(task.train, seed).candidates)
        case ProgramMutationsNegative():
            return FromEach(lambda example: bug_candidates(example, seed))
        case PerturbationNegative():
            return FromEach(lambda example: perturbed(example, seed))
        case _:
            return WrittenCandidates(task.student_messages, write, seed)
