"""From a configuration to its prepared problems: read from the cache, or made and put there.

The contexts of some problems, made, verified and measured. Pure but for the model that writes and the grader.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from unisd_rl.config import Config
from unisd_rl.config.contexts import GeneratedNegative, InductionAuxiliary, RetrievalAuxiliary
from unisd_rl.contexts.cache import Segments, cache_key, code_fingerprint, model_fingerprint, records_fingerprint
from unisd_rl.contexts.generator import ContextGenerator, OpenGenerator, generated_configs
from unisd_rl.contexts.induction import Instruction, demonstration_groups, distinct_instructions, instruction_request
from unisd_rl.contexts.negatives import GradeMany, VerifiedNegative, verified_negatives
from unisd_rl.contexts.prompts import Prepared, prompt_of
from unisd_rl.contexts.selection import Measure, PreparedRow, measure_with, refuse_long_questions, select_examples
from unisd_rl.contexts.templates import Chat
from unisd_rl.contexts.views import Contexts, auxiliary_contexts, candidates
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.task import Task, grade_all
from unisd_rl.types import Example, Progress, Prompt


class ContextBuilder:
    """Makes rows. What they follow from is `config` (its contexts that some term reads, its seed), task and model."""

    def __init__(
        self,
        config: Config,
        task: Task,
        instructions: Callable[[], Sequence[Instruction]],
        writer: ContextGenerator,
        grade: GradeMany,
        measure: Measure,
    ) -> None:
        """`instructions` is asked, and `writer` called, only where the configuration has the model write."""
        self._config, self._task, self._writer, self._grade, self._measure = config, task, writer, grade, measure
        self._read, self._seed = config.contexts_read, config.run.seed
        auxiliary = self._read.auxiliary
        self._references = auxiliary and auxiliary_contexts(auxiliary, task, self._seed, instructions)

    def rows(self, examples: Sequence[Example], name: str) -> list[PreparedRow]:
        """One row a problem, in order; `name` seeds what the model writes, and tells these problems from others."""
        negatives = self._negatives(examples, name)
        return [self._row(example, negative) for example, negative in zip(examples, negatives, strict=True)]

    def _row(self, example: Example, negative: VerifiedNegative) -> PreparedRow:
        auxiliary = self._references.for_example(example) if self._references else ()
        contexts = Contexts(auxiliary, negative.text)
        lengths = self._measure(prompt_of(self._task, self._config, example, contexts))
        return PreparedRow(example.id, contexts, negative.right, negative.implausible, lengths)

    def _negatives(self, examples: Sequence[Example], name: str) -> Sequence[VerifiedNegative]:
        negative = self._read.negative
        if negative is None:
            return [VerifiedNegative()] * len(examples)

        def write(chats: Sequence[Chat], what: str) -> Sequence[str | None]:
            assert isinstance(negative, GeneratedNegative), "only these are written by the model"
            return self._writer.generate(chats, negative, derive_seed(self._seed, "written", name, what))

        proposed = candidates(negative, self._task, self._seed, write)
        return verified_negatives(examples, proposed, self._grade, negative.attempts)


_INSTRUCTIONS_A_SEGMENT = 16
JsonObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Preparation:
    """Everything that preparing needs. The model's writer is opened only where something is missing that it writes."""

    config: Config
    task: Task
    model: Path
    open_writer: OpenGenerator
    progress: Progress
    measure: Measure
    grade: GradeMany

    @classmethod
    def of(
        cls, config: Config, task: Task, model: Path, open_writer: OpenGenerator, progress: Progress
    ) -> "Preparation":
        """With the model's own tokenizer and the task's own grader."""
        measure = measure_with(ChatTokenizer(model))
        return cls(config, task, model, open_writer, progress, measure, partial(grade_all, task))

    def prepared(self) -> Prepared:
        """The problems to train on, with their contexts.

        Raises:
            UserError: too many problems do not fit, or a held-out one does not; what `selection.py` refuses.
        """
        refuse_long_questions(self.config, self._held_out_lengths())
        return select_examples(self.config, self.task, self._rows())

    def _rows(self) -> list[PreparedRow]:
        made_from = made_from_train(self.config, self.task, self.model)
        segments = Segments(folder_of(self.config, "problems", made_from), len(self.task.train))
        if not segments.finished:
            self._make(segments, made_from)
        return [PreparedRow.from_json(row) for row in segments.read()]

    def _make(self, segments: Segments, made_from: JsonObject) -> None:
        with ExitStack() as stack:
            report = stack.enter_context(self.progress.progress("preparing contexts"))
            writer = self._writer(stack)
            maker = ContextBuilder(
                self.config, self.task, lambda: self._instructions(writer), writer, self.grade, self.measure
            )
            total = len(self.task.train)
            for number, places in enumerate(segments.ranges()):
                if not segments.has(number):
                    examples = [self.task.train[place] for place in places]
                    rows = maker.rows(examples, f"segment {number}")
                    segments.write(number, [row.to_json() for row in rows])
                report(places.stop / total, f"{places.stop} of {total}")
            segments.finish(made_from)

    def _writer(self, stack: ExitStack) -> ContextGenerator:
        if not generated_configs(self.config):
            return _NoWriter()
        with self.progress.waiting("starting the engine that writes contexts"):
            return stack.enter_context(self.open_writer())

    def _instructions(self, writer: ContextGenerator) -> Sequence[Instruction]:
        """The pool of instructions: from the cache, or written now."""
        settings, seed = self.config.contexts_read.auxiliary, self.config.run.seed
        assert isinstance(settings, InductionAuxiliary), "only induction reads instructions"
        groups = demonstration_groups(self.task.train, settings.instructions, settings.demonstrations, seed)
        requests = [instruction_request(group) for group in groups]
        made_from = {
            "requests": cache_key({"requests": [[turn.content for turn in chat] for chat in requests]}),
            "sampling": settings.model_dump(exclude={"views"}),
            "by": [self.config.rollout.engine.type, self.config.model.dtype, self.config.rollout.max_prompt_tokens],
            "seed": seed,
            "model": model_fingerprint(self.model, weights=True),
        }
        segments = Segments(folder_of(self.config, "instructions", made_from), len(groups), _INSTRUCTIONS_A_SEGMENT)
        for number, places in enumerate(segments.ranges()):
            if not segments.finished and not segments.has(number):
                asked = [requests[place] for place in places]
                texts = writer.generate(asked, settings, derive_seed(seed, "instructions", number))
                segments.write(number, [{"text": text and text.strip()} for text in texts])
        if not segments.finished:
            segments.finish(made_from)
        written = [
            Instruction(row["text"] or "", tuple(one.id for one in group))
            for row, group in zip(segments.read(), groups, strict=True)
        ]
        return distinct_instructions(written, settings.views)

    def _held_out_lengths(self) -> list[int]:
        task = self.task
        made_from = {
            "records": records_fingerprint(task, task.evaluation),
            "tokenizer": model_fingerprint(self.model, weights=False),
            "code": code_fingerprint(),
        }
        segments = Segments(folder_of(self.config, "held_out", made_from), len(task.evaluation))
        if not segments.finished:
            for number, places in enumerate(segments.ranges()):
                examples = [task.evaluation[place] for place in places]
                prompts = [Prompt(one.id, task.student_messages(one), ()) for one in examples]
                segments.write(number, [{"tokens": self.measure(prompt).prompt} for prompt in prompts])
            segments.finish(made_from)
        return [row["tokens"] for row in segments.read()]


def made_from_train(config: Config, task: Task, model: Path) -> JsonObject:
    """Everything the rows of training problems follow from."""
    read = config.contexts_read
    written = bool(generated_configs(config))
    embeds = isinstance(read.auxiliary, RetrievalAuxiliary) and read.auxiliary.model
    return {
        "records": records_fingerprint(task, task.train),
        "contexts": read.model_dump(mode="json"),
        "views": config.reads_teacher,
        "gold": config.rollout.sources.gold > 0.0,
        "seed": config.run.seed,
        "code": code_fingerprint(),
        "model": model_fingerprint(model, weights=written),
        "written by": [config.rollout.engine.type, config.model.dtype, config.rollout.max_prompt_tokens] * written,
        "embeddings": model_fingerprint(embeds, weights=True) if embeds else None,
    }


def folder_of(config: Config, kind: str, made_from: JsonObject) -> Path:
    """Where the rows made from this are kept."""
    return cache_folder(config) / kind / cache_key(made_from)


def cache_folder(config: Config) -> Path:
    """The folder of all prepared contexts."""
    return (config.contexts.cache or user_cache_path("unisd-rl") / "contexts").expanduser().absolute()


class _NoWriter:
    """Stands where nothing is written by the model."""

    def generate(self, chats: Sequence[Any], settings: Any, seed: int) -> list[str | None]:
        """Never called."""
        raise AssertionError("no context is written by the model")
