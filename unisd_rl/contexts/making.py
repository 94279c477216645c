"""The contexts of some problems, made, verified and measured. Pure but for the model that writes and the grader."""

from collections.abc import Callable, Sequence

from unisd_rl.config import Config, WrittenNegative
from unisd_rl.contexts.induction import Instruction
from unisd_rl.contexts.negatives import GradeMany, Verified, verified_wrong
from unisd_rl.contexts.prompts import prompt_of
from unisd_rl.contexts.rows import Measure, PreparedRow
from unisd_rl.contexts.templates import Chat
from unisd_rl.contexts.views import Contexts, candidates, references
from unisd_rl.driver.context_generation import Writer
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.task import Task
from unisd_rl.types import Example


class Maker:
    """Makes rows. What they follow from is `config` (its contexts that some term reads, its seed), task and model."""

    def __init__(
        self,
        config: Config,
        task: Task,
        instructions: Callable[[], Sequence[Instruction]],
        writer: Writer,
        grade: GradeMany,
        measure: Measure,
    ) -> None:
        """`instructions` is asked, and `writer` called, only where the configuration has the model write."""
        self._config, self._task, self._writer, self._grade, self._measure = config, task, writer, grade, measure
        self._read, self._seed = config.contexts_read, config.run.seed
        auxiliary = self._read.auxiliary
        self._references = auxiliary and references(auxiliary, task, self._seed, instructions)

    def rows(self, examples: Sequence[Example], name: str) -> list[PreparedRow]:
        """One row a problem, in order; `name` seeds what the model writes, and tells these problems from others."""
        negatives = self._negatives(examples, name)
        return [self._row(example, negative) for example, negative in zip(examples, negatives, strict=True)]

    def _row(self, example: Example, negative: Verified) -> PreparedRow:
        auxiliary = self._references.of(example) if self._references else ()
        contexts = Contexts(auxiliary, negative.text)
        lengths = self._measure(prompt_of(self._task, self._config, example, contexts))
        return PreparedRow(example.id, contexts, negative.right, negative.implausible, lengths)

    def _negatives(self, examples: Sequence[Example], name: str) -> Sequence[Verified]:
        negative = self._read.negative
        if negative is None:
            return [Verified()] * len(examples)

        def write(chats: Sequence[Chat], what: str) -> Sequence[str | None]:
            assert isinstance(negative, WrittenNegative), "only these are written by the model"
            return self._writer.write(chats, negative, derive_seed(self._seed, "written", name, what))

        proposed = candidates(negative, self._task, self._seed, write)
        return verified_wrong(examples, proposed, self._grade, negative.attempts)
