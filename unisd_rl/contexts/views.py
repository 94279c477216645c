"""Views: from the configuration to the sources of contexts, and from one problem's contexts to its prompt.

```
Example --AuxiliaryContexts.for_example--> what its auxiliary views read --+
        --Candidates.propose, graded--> a wrong solution --+--> Contexts --prompt_for--> Prompt with every View
```
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unisd_rl.config.contexts import (
    AuxiliaryConfig,
    ContextOrder,
    ContextsConfig,
    CorruptionNegative,
    GeneratedNegative,
    InductionAuxiliary,
    NegativeConfig,
    PerturbationNegative,
    PrimaryContext,
    ProgramMutationsNegative,
    RandomAuxiliary,
    RetrievalAuxiliary,
    TaskNegative,
)
from unisd_rl.contexts.auxiliary import AuxiliaryContexts, DonorContexts, DonorOrder, StepDonors, random_order
from unisd_rl.contexts.induction import Instruction, InstructionContexts
from unisd_rl.contexts.leakage import leak_detector
from unisd_rl.contexts.negatives import (
    Candidates,
    Generate,
    GeneratedCandidates,
    PerExampleCandidates,
    mutation_candidates,
    perturbed_candidates,
)
from unisd_rl.contexts.retrieval import Among, Bm25, Embeddings, nearest_first
from unisd_rl.contexts.templates import AUXILIARY_TEMPLATES, Chat, with_demonstration
from unisd_rl.tasks.corruption import Corruption
from unisd_rl.tasks.task import Task
from unisd_rl.types import Example, Prompt, View, ViewKind


@dataclass(frozen=True, slots=True)
class Contexts:
    """What the views of one problem read beside its prompt; made once in preparation.

    A problem without a verified wrong demonstration has no negative view.
    """

    auxiliary: tuple[str, ...] = ()
    negative: str | None = None
    another: str | None = None
    """The demonstration of another problem, where the primary view reads one."""


def prompt_for(
    task: Task,
    example: Example,
    contexts: Contexts,
    order: ContextOrder = "reference_first",
    primary: PrimaryContext = "demonstration",
) -> Prompt:
    """The prompt of an example: primary view first, then the auxiliary ones, then the negative one."""
    chat, with_reference = task.student_messages(example), AUXILIARY_TEMPLATES[order]
    views = [View(ViewKind.PRIMARY, _primary_view(chat, example, contexts, primary))]
    views += [View(ViewKind.AUXILIARY, with_reference(chat, reference)) for reference in contexts.auxiliary]
    if contexts.negative is not None:
        views.append(View(ViewKind.NEGATIVE, with_demonstration(chat, contexts.negative)))
    return Prompt(example.id, chat, tuple(views))


def _primary_view(chat: Chat, example: Example, contexts: Contexts, primary: PrimaryContext) -> Chat:
    match primary:
        case "demonstration":
            return with_demonstration(chat, example.demonstration)
        case "another":
            assert contexts.another is not None, "problems without one are not trained on"
            return with_demonstration(chat, contexts.another)
        case "nothing":
            return chat


def auxiliary_contexts(
    config: AuxiliaryConfig, task: Task, seed: int, instructions: Callable[[], Sequence[Instruction]]
) -> AuxiliaryContexts:
    """What auxiliary views read, as configured; `instructions` is asked for the pool only where one is needed.

    Raises:
        UserError: an embedding model does not load.
    """
    leaks = leak_detector(task)
    match config:
        case RandomAuxiliary():
            return DonorContexts(random_order(task.train, seed), config.views, leaks)
        case RetrievalAuxiliary():
            questions = [example.question for example in task.train]
            similarity = Bm25(questions) if config.model is None else Embeddings(questions, config.model)
            return DonorContexts(nearest_first(task.train, similarity, seed), config.views, leaks)
        case InductionAuxiliary():
            return InstructionContexts(instructions(), config.views, seed, leaks)


def step_donors(
    config: ContextsConfig, task: Task, seed: int, fits: Callable[[Example, str], bool]
) -> StepDonors | None:
    """The donors of each step, where the configuration has a pool of them; `fits` as in `StepDonors`."""
    size, auxiliary = config.donors_per_step, config.auxiliary
    if size is None or auxiliary is None:
        return None
    similarity = Bm25([each.question for each in task.train]) if isinstance(auxiliary, RetrievalAuxiliary) else None

    def order(indices: Sequence[int]) -> DonorOrder:
        pool = [task.train[index] for index in indices]
        return nearest_first(pool, Among(similarity, indices), seed) if similarity else random_order(pool, seed)

    return StepDonors(len(task.train), size, auxiliary.views, order, leak_detector(task), fits, seed)


def negative_candidates(config: NegativeConfig, task: Task, seed: int, generate: Generate) -> Candidates:
    """Where wrong demonstrations come from, as configured; `generate` is called only where the model writes them."""
    match config:
        case TaskNegative():
            return PerExampleCandidates(lambda example: task.wrong_demonstrations(example, seed))
        case CorruptionNegative():
            return PerExampleCandidates(Corruption(task.train, seed).candidates)
        case ProgramMutationsNegative():
            return PerExampleCandidates(lambda example: mutation_candidates(example, seed))
        case PerturbationNegative():
            return PerExampleCandidates(lambda example: perturbed_candidates(example, seed))
        case GeneratedNegative():
            return GeneratedCandidates(task.student_messages, generate, seed)
