"""Preparation: from a configuration to the problems that are trained on, read from the cache, or made and put there.

```
task.train --ContextBuilder: contexts made, verified, measured--> rows, 256 at a time --cache--> select_examples
```

Pure but for the model that writes instructions and wrong demonstrations, and the grader.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

from platformdirs import user_cache_path

from unisd_rl.config import Config
from unisd_rl.config.contexts import GeneratedConfig, GeneratedNegative, InductionAuxiliary, RetrievalAuxiliary
from unisd_rl.contexts.auxiliary import StepDonors, shuffled
from unisd_rl.contexts.cache import (
    Inputs,
    Row,
    Segments,
    cache_key,
    code_fingerprint,
    model_fingerprint,
    records_fingerprint,
)
from unisd_rl.contexts.induction import Instruction, demonstration_groups, distinct_instructions, instruction_request
from unisd_rl.contexts.leakage import leak_detector, non_leaking_examples
from unisd_rl.contexts.negatives import GradeMany, VerifiedNegative, verified_negatives
from unisd_rl.contexts.prompts import Prepared, prompt_of
from unisd_rl.contexts.selection import (
    Lengths,
    Measure,
    PreparedRow,
    check_held_out_lengths,
    measure_with,
    select_examples,
)
from unisd_rl.contexts.templates import AUXILIARY_TEMPLATES, Chat
from unisd_rl.contexts.views import Contexts, auxiliary_contexts, negative_candidates, step_donors
from unisd_rl.models.check import ModelLimits
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.mapped_examples import MappedExamples
from unisd_rl.tasks.task import Task, grade_all
from unisd_rl.types import Example, Message, Progress, Prompt, View, ViewKind

_INSTRUCTIONS_PER_SEGMENT = 16
_NO_QUESTION = (Message("user", ""),)
_SEAM = 16  # tokens that two texts may have more when they are joined; with room


class ContextGenerator(Protocol):
    """A model that writes instructions and wrong demonstrations, as `driver.context_generation` has one."""

    def generate(self, chats: Sequence[Chat], settings: GeneratedConfig, seed: int) -> list[str | None]:
        """Texts in order; None for a request longer than `settings` allows, and for an answer that was cut."""
        ...


OpenGenerator = Callable[[], AbstractContextManager[ContextGenerator]]
"""Starts a generator for the time of a block."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """Everything that preparing needs. A generator is opened only where something is missing that the model writes."""

    config: Config
    task: Task
    model: Path
    open_generator: OpenGenerator
    progress: Progress
    measure: Measure
    grade: GradeMany
    limits: ModelLimits | None = None
    """What the model's embeddings bound; None: nothing."""
    prompt_inputs: Inputs = field(default_factory=dict)
    """What decides the tokens of prompts beside the problems and the model's files."""
    notes: tuple[str, ...] = ()
    """What a person should know of the tokenizer."""

    @classmethod
    def create(
        cls, config: Config, task: Task, model: Path, open_generator: OpenGenerator, progress: Progress
    ) -> "Preparation":
        """With the model's own tokenizer and the task's own grader.

        Raises:
            UserError: see `ChatTokenizer.check`.
        """
        tokenizer = ChatTokenizer(model, config.model.chat_template)
        return cls(
            config=config,
            task=task,
            model=model,
            open_generator=open_generator,
            progress=progress,
            measure=measure_with(tokenizer),
            grade=partial(grade_all, task),
            notes=tokenizer.check(),
            limits=tokenizer.limits,
            prompt_inputs=tokenizer.prompt_inputs,
        )

    def prepared(self) -> Prepared:
        """The problems to train on, with their contexts.

        Raises:
            UserError: too many problems do not fit, or a held-out one does not; what `selection.py` refuses; a prompt
                and the longest completion are more than the model's positions.
        """
        most = self.config.rollout.max_prompt_tokens
        held_out = self._held_out_lengths()
        check_held_out_lengths([lengths.prompt for lengths in held_out], self.config.task.type, most)
        self._check_positions("a held-out problem", [lengths.prompt for lengths in held_out])
        self._check_gold_positions([lengths.prompt + lengths.gold for lengths in held_out])
        rows = self._rows()
        prepared = replace(select_examples(self.config, self.task, rows), step_donors=self._step_donors(rows))
        lengths = [row.lengths.prompt for row in rows]
        self._check_positions("a prompt or a view of it", [length for length in lengths if length <= most])
        return prepared

    def _check_positions(self, what: str, lengths: Sequence[int]) -> None:
        if self.limits is not None:
            self.limits.check_prompts(what, max(lengths, default=0), self.config.rollout.max_completion_tokens)

    def _check_gold_positions(self, lengths: Sequence[int]) -> None:
        if self.limits is not None and self.config.evaluation.retention is not None:
            what = f"a held-out problem and its gold completion, {max(lengths, default=0)} tokens,"
            remedy = "shorten the record, or leave out evaluation.retention"
            self.limits.check_positions(what, max(lengths, default=0), remedy)

    def _step_donors(self, rows: Sequence[PreparedRow]) -> StepDonors | None:
        if self.config.contexts_read.donors_per_step is None:
            return None
        template, most = AUXILIARY_TEMPLATES[self.config.contexts.order], self.config.rollout.max_prompt_tokens
        if self.limits is not None and self.limits.positions is not None:
            most = min(most, self.limits.positions - self.config.rollout.max_completion_tokens)
        longest = {row.id: row.lengths.prompt for row in rows}

        @lru_cache(maxsize=4096)
        def tokens(chat: Chat) -> int:
            return self.measure(Prompt("", chat, (View(ViewKind.AUXILIARY, chat),))).prompt

        def fits(example: Example, reference: str) -> bool:
            # A donor's tokens are counted once; the view itself is measured only where their sum is near the limit.
            if longest[example.id] + tokens(template(_NO_QUESTION, reference)) + _SEAM <= most:
                return True
            return tokens(template(self.task.student_messages(example), reference)) <= most

        return step_donors(self.config.contexts_read, self.task, self.config.run.seed, fits)

    def _held_out_lengths(self) -> list[Lengths]:
        task, reads_gold = self.task, self.config.evaluation.retention is not None
        inputs = {
            "records": records_fingerprint(task, task.evaluation),
            "gold": reads_gold,
            "tokenizer": model_fingerprint(self.model, weights=False),
            "template": self.prompt_inputs,
            "code": code_fingerprint(),
        }

        def measured(number: int, indices: range) -> list[Row]:
            examples = [task.evaluation[index] for index in indices]
            golds = [example.demonstration if reads_gold else None for example in examples]
            prompts = [
                Prompt(example.id, task.student_messages(example), (), gold)
                for example, gold in zip(examples, golds, strict=True)
            ]
            return [asdict(self.measure(prompt)) for prompt in prompts]

        segments = Segments(folder_of(self.config, "held_out", inputs), len(task.evaluation))
        return [Lengths(**row) for row in segments.read_or_make(inputs, measured)]

    def _rows(self) -> Sequence[PreparedRow]:
        inputs = {**training_inputs(self.config, self.task, self.model), "template": self.prompt_inputs}
        segments = Segments(folder_of(self.config, "problems", inputs), len(self.task.train))
        if not segments.finished:
            self._build(segments, inputs)
        if isinstance(self.task.train, MappedExamples):
            return segments.stored(PreparedRow.from_json)
        return [PreparedRow.from_json(row) for row in segments.read()]

    def _build(self, segments: Segments, inputs: Inputs) -> None:
        train = self.task.train
        with self.progress.progress("preparing contexts") as report, ExitStack() as stack:
            builder = self._builder(stack)

            def built(number: int, indices: range) -> list[Row]:
                rows = builder.rows([train[index] for index in indices], f"segment {number}")
                report(indices.stop, len(train), "")
                return [row.to_json() for row in rows]

            segments.make_missing(inputs, built)

    def _builder(self, stack: ExitStack) -> "ContextBuilder":
        """A builder; the generator, where one is needed, is closed with `stack`."""
        generator = None
        if self.config.contexts_read.generated:
            with self.progress.waiting("starting the engine that writes contexts"):
                generator = stack.enter_context(self.open_generator())
        instructions = partial(self._instructions, generator)
        return ContextBuilder(self.config, self.task, instructions, generator, self.grade, self.measure)

    def _instructions(self, generator: ContextGenerator | None) -> Sequence[Instruction]:
        """The pool of instructions: from the cache, or generated now."""
        settings, seed = self.config.contexts_read.auxiliary, self.config.run.seed
        assert isinstance(settings, InductionAuxiliary), "only induction reads instructions"
        groups = demonstration_groups(self.task.train, settings.instructions, settings.demonstrations, seed)
        requests = [instruction_request(group) for group in groups]
        inputs = {
            "requests": cache_key({"requests": [[turn.content for turn in chat] for chat in requests]}),
            "sampling": settings.model_dump(exclude={"views"}) | {"instructions": len(groups)},
            "by": [self.config.rollout.engine.type, self.config.model.dtype, self.config.rollout.max_prompt_tokens],
            "seed": seed,
            "model": model_fingerprint(self.model, weights=True),
            "template": self.prompt_inputs,
        }

        def generated(number: int, indices: range) -> list[Row]:
            assert generator is not None, "induction has a generator"
            chats = [requests[index] for index in indices]
            texts = generator.generate(chats, settings, derive_seed(seed, "instructions", number))
            return [{"text": text and text.strip()} for text in texts]

        folder = folder_of(self.config, "instructions", inputs)
        rows = Segments(folder, len(groups), _INSTRUCTIONS_PER_SEGMENT).read_or_make(inputs, generated)
        instructions = [
            Instruction(row["text"] or "", tuple(example.id for example in group))
            for row, group in zip(rows, groups, strict=True)
        ]
        return distinct_instructions(instructions, settings.views)


class ContextBuilder:
    """Builds rows. They follow from `config` (its contexts that some term reads, its seed), task and model alone."""

    def __init__(
        self,
        config: Config,
        task: Task,
        instructions: Callable[[], Sequence[Instruction]],
        generator: ContextGenerator | None,
        grade: GradeMany,
        measure: Measure,
    ) -> None:
        """`instructions` is asked, and `generator` needed, only where the configuration has the model write."""
        self._config, self._task, self._generator, self._grade, self._measure = config, task, generator, grade, measure
        self._read, self._seed = config.contexts_read, config.run.seed
        auxiliary = self._read.auxiliary
        self._auxiliary = auxiliary and auxiliary_contexts(auxiliary, task, self._seed, instructions)
        self._leaks = leak_detector(task)

    def rows(self, examples: Sequence[Example], name: str) -> list[PreparedRow]:
        """One row a problem, in order; `name` seeds what the model writes, and tells these problems from others."""
        negatives = self._negatives(examples, name)
        return [self._row(example, negative) for example, negative in zip(examples, negatives, strict=True)]

    def _row(self, example: Example, negative: VerifiedNegative) -> PreparedRow:
        auxiliary = self._auxiliary.for_example(example) if self._auxiliary else ()
        contexts = Contexts(auxiliary, negative.text, self._another(example))
        lengths = self._measure(prompt_of(self._task, self._config, example, contexts))
        return PreparedRow(example.id, contexts, negative.right, negative.implausible, lengths)

    def _another(self, example: Example) -> str | None:
        """The demonstration of another problem, where the primary view reads one and there is one without a leak."""
        if self._read.primary != "another" or not self._config.reads_teacher:
            return None
        order = shuffled(self._task.train, derive_seed(self._seed, "another demonstration", example.id))
        donors = non_leaking_examples(example, order, 1, self._leaks)
        return donors[0].demonstration if donors else None

    def _negatives(self, examples: Sequence[Example], name: str) -> Sequence[VerifiedNegative]:
        negative, generator = self._read.negative, self._generator
        if negative is None:
            return [VerifiedNegative()] * len(examples)

        def generate(chats: Sequence[Chat], purpose: str) -> Sequence[str | None]:
            assert isinstance(negative, GeneratedNegative), "only these are written by the model"
            assert generator is not None, "generated negatives have a generator"
            # "written" is part of the seed: another word would sample other texts.
            return generator.generate(chats, negative, derive_seed(self._seed, "written", name, purpose))

        candidates = negative_candidates(negative, self._task, self._seed, generate)
        return verified_negatives(examples, candidates, self._grade, negative.attempts)


def training_inputs(config: Config, task: Task, model: Path) -> Inputs:
    """Everything the rows of training problems follow from."""
    read = config.contexts_read
    generated = bool(read.generated)
    embeds = isinstance(read.auxiliary, RetrievalAuxiliary) and read.auxiliary.model
    return {
        "records": records_fingerprint(task, task.train),
        "contexts": read.model_dump(mode="json", exclude={"donors_per_step", "max_dropped"}),  # of what is prepared
        "views": config.reads_teacher,
        "gold": config.rollout.sources.gold > 0.0,
        "seed": config.run.seed,
        "code": code_fingerprint(),
        "model": model_fingerprint(model, weights=generated),
        "generated by": [config.rollout.engine.type, config.model.dtype, config.rollout.max_prompt_tokens] * generated,
        "embeddings": model_fingerprint(embeds, weights=True) if embeds else None,
    }


def folder_of(config: Config, kind: str, inputs: Inputs) -> Path:
    """Where the rows that follow from these inputs are kept."""
    return cache_folder(config) / kind / cache_key(inputs)


def cache_folder(config: Config) -> Path:
    """The folder of all prepared contexts."""
    return (config.contexts.cache or user_cache_path("unisd-rl") / "contexts").absolute()
