"""The contexts that teachers read beside the prompt: where auxiliary and negative ones come from."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from unisd_rl.config.base import Count, Decides, ModelName, Section, Share, Temperature, UserPath


class RandomAuxiliary(Section):
    """Views that read solved examples of other problems, drawn at random."""

    type: Literal["random"] = "random"
    views: Annotated[int, Field(ge=1, le=1024)] = 3
    """K, the number of auxiliary views; each reads one solved example of another problem."""


class RetrievalAuxiliary(Section):
    """Views that read solved examples of similar problems: view k reads the k-th nearest neighbour."""

    type: Literal["retrieval"] = "retrieval"
    views: Annotated[int, Field(ge=1, le=1024)] = 3
    """K, the number of auxiliary views; each reads one solved example of another problem."""
    model: ModelName | None = None
    """Folder or hub name of a sentence-embedding model; nearest by cosine. Absent: nearest by BM25, without a model."""


class InductionAuxiliary(Section):
    """Views that read general instructions, which the model writes itself after reading solved examples."""

    type: Literal["induction"] = "induction"
    views: Annotated[int, Field(ge=1, le=1024)] = 3
    """K, the number of auxiliary views; each reads an instruction of its own."""
    demonstrations: Count = 3
    """n, the solved examples the model reads before it writes an instruction."""
    instructions: Count | None = None
    """Size of the pool: instructions written, each after other examples. Absent: 32, or fewer where the training
    problems are not enough for so many."""
    temperature: Temperature = 0.7
    """Sampling temperature of the instructions."""
    max_prompt_tokens: Count | None = None
    """Longer requests are not made. Absent: rollout.max_prompt_tokens and 256 more."""
    max_tokens: Count = 256
    """Longest instruction; one that is cut is not used."""


AuxiliaryConfig = Annotated[RandomAuxiliary | RetrievalAuxiliary | InductionAuxiliary, Field(discriminator="type")]


class TaskNegative(Section):
    """Wrong demonstrations as the task makes them; of own records, their own solutions with a mistake."""

    type: Literal["task"] = "task"
    attempts: Count = 8
    """Candidates tried for a demonstration that the grader finds wrong; without one a problem has no negative view."""


class GeneratedNegative(Section):
    """Wrong demonstrations that the model writes itself: asked for a confident mistake, or its own wrong answers."""

    type: Literal["generated"] = "generated"
    attempts: Count = 4
    """Candidates tried for a demonstration that the grader finds wrong; without one a problem has no negative view."""
    temperature: Temperature = 0.7
    """Sampling temperature."""
    max_prompt_tokens: Count | None = None
    """Longer requests are not made. Absent: rollout.max_prompt_tokens and 256 more."""
    max_tokens: Count = 512
    """Longest candidate; one that is cut is not used."""


class CorruptionNegative(Section):
    """The gold demonstration with another option, number or answer wherever the right one stands, argued for."""

    type: Literal["corruption"] = "corruption"
    attempts: Count = 8
    """Candidates tried for a demonstration that the grader finds wrong; without one a problem has no negative view."""


class ProgramMutationsNegative(Section):
    """The gold program with one mutation: off by one, wrong operator, missing edge case, wrong return."""

    type: Literal["program_mutations"] = "program_mutations"
    attempts: Count = 8
    """Candidates tried for a demonstration that the grader finds wrong; without one a problem has no negative view."""


class PerturbationNegative(Section):
    """The gold demonstration with words replaced: antonyms, synonyms, negations, other numbers."""

    type: Literal["perturbation"] = "perturbation"
    attempts: Count = 8
    """Candidates tried for a demonstration that the grader finds wrong; without one a problem has no negative view."""


GeneratedConfig = InductionAuxiliary | GeneratedNegative
"""Sections whose contexts the model itself writes."""
NegativeConfig = Annotated[
    TaskNegative | GeneratedNegative | CorruptionNegative | ProgramMutationsNegative | PerturbationNegative,
    Field(discriminator="type"),
]
ContextOrder = Literal["reference_first", "question_first"]
"""Where an auxiliary view has its reference: before the problem's question, or below it."""
PrimaryContext = Literal["demonstration", "another", "nothing"]
"""What the primary view reads beside the prompt."""
_DEFAULT_TYPES = {"auxiliary": "random", "negative": "task"}


class ContextsConfig(Section):
    """What the teachers read beside the prompt."""

    primary: PrimaryContext = "demonstration"
    """What the primary view reads: the problem's demonstration; or, as controls of an experiment, the demonstration of
    another problem, drawn at random among those that do not give the answer away, or nothing: it then is the prompt."""
    auxiliary: AuxiliaryConfig | None = None
    """Views that never hold this problem's answer (for agreement). Absent: none."""
    negative: NegativeConfig | None = None
    """The view that reads a wrong demonstration (for the contrastive term). Absent: none."""
    order: ContextOrder = "reference_first"
    """Order of an auxiliary view: the solved example or the advice, then the question; or the question first, so that
    all views of a problem begin with the same tokens, as its prompt, its primary and its negative view do anyway."""
    donors_per_step: Count | None = None
    """Solved examples drawn anew for each step, of which the auxiliary views of its problems read theirs, so that they
    share them. Absent: each problem has its own, of all training problems."""
    max_dropped: Annotated[Share, Decides.NOTHING] = 0.05
    """Largest share of the training problems that may be dropped, as longer than `rollout.max_prompt_tokens` or for
    want of contexts that do not leak; with more a run is refused. To filter data with a long tail, raise it."""
    cache: Annotated[UserPath | None, Decides.NOTHING] = None
    """Folder in which prepared contexts are kept. Absent: the user's cache folder."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_types(cls, given: Any) -> Any:
        """A section without a `type`: random donors, and the task's own wrong demonstrations."""
        if not isinstance(given, Mapping):
            return given
        sections = dict(given)
        for name, default in _DEFAULT_TYPES.items():
            if isinstance(given.get(name), Mapping):
                sections[name] = {"type": default, **given[name]}
        return sections

    @model_validator(mode="after")
    def _pool_has_donors(self) -> "ContextsConfig":
        donors, auxiliary = self.donors_per_step, self.auxiliary
        if donors is None or auxiliary is None:
            return self
        if isinstance(auxiliary, InductionAuxiliary):
            raise ValueError(
                f"donors_per_step = {donors} is of solved examples, and auxiliary views of type "
                '"induction" read none: leave it out, or set auxiliary.type to "random" or "retrieval"'
            )
        if isinstance(auxiliary, RetrievalAuxiliary) and auxiliary.model is not None:
            raise ValueError(
                f"donors_per_step = {donors} takes the nearest of each step's donors by BM25, without the embedding "
                f"model {auxiliary.model!r}: leave out one of the two"
            )
        if donors < auxiliary.views:
            raise ValueError(
                f"donors_per_step = {donors} is less than auxiliary.views = {auxiliary.views}, and each view reads "
                "another donor: raise the first or lower the second"
            )
        return self

    @property
    def generated(self) -> tuple[GeneratedConfig, ...]:
        """The sections whose contexts the model itself writes."""
        return tuple(section for section in (self.auxiliary, self.negative) if isinstance(section, GeneratedConfig))
