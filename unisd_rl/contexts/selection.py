"""Selection: limits on lengths, prepared problems as they are kept, which are trained on, and which data is refused."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from heapq import nlargest
from itertools import chain
from pathlib import Path

from unisd_rl.config import Config
from unisd_rl.config.contexts import GeneratedNegative, InductionAuxiliary
from unisd_rl.config.own_model import Default
from unisd_rl.config.task import ArithmeticTask
from unisd_rl.contexts.cache import Row
from unisd_rl.contexts.prepared_rows import Picked
from unisd_rl.contexts.prompts import PreparationReport, Prepared
from unisd_rl.contexts.templates import AUXILIARY_TEMPLATES, Chat, other_example, with_demonstration
from unisd_rl.contexts.views import Contexts
from unisd_rl.errors import UserError
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.tasks.mapped_examples import MappedExamples
from unisd_rl.tasks.perturbation import rationale_of
from unisd_rl.tasks.task import Task
from unisd_rl.types import Example, Prompt

LIMITS = ("max_prompt_tokens", "max_completion_tokens")
"""Fields of `rollout` that say how long a text may be."""
_COUNTED = 64  # texts whose tokens are counted, to find the longest
_SHORTEST_ANSWER = 256  # a model reasons at more length than a short worked solution does
_ANY = 2**20


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the longest of a prompt and its views; of the gold completion, 0 without one."""

    prompt: int
    gold: int


Measure = Callable[[Prompt], Lengths]


def measure_with(tokenizer: ChatTokenizer) -> Measure:
    """Lengths by this tokenizer and its chat template. What they cannot read is refused by the problem's name."""

    def measure(prompt: Prompt) -> Lengths:
        what = "prompt"
        try:
            longest = len(tokenizer.encode(prompt.messages))
            for view in prompt.views:
                what = f"{view.kind.value} view"
                longest = max(longest, len(tokenizer.encode_view(view.messages)))
            what = "gold completion"
            gold = 0 if prompt.gold is None else len(tokenizer.encode_completion(prompt.gold))
        except UserError as error:
            raise UserError(f"the {what} of problem {prompt.id}: {error}") from None
        return Lengths(longest, gold)

    return measure


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """A prepared problem: its contexts, how many candidates for the wrong demonstration were discarded as right or
    implausible, and how long its prompts are. Lengths, not verdicts: a limit may change and the row stays."""

    id: str
    contexts: Contexts
    right: int
    implausible: int
    lengths: Lengths

    def to_json(self) -> Row:
        """As a segment of the cache holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Row) -> "PreparedRow":
        """The inverse of `to_json`."""
        contexts = Contexts(**{**row["contexts"], "auxiliary": tuple(row["contexts"]["auxiliary"])})
        return cls(row["id"], contexts, row["right"], row["implausible"], Lengths(**row["lengths"]))


def with_data_limits(config: Config, task: Task) -> tuple[Config, tuple[Default, ...]]:
    """The configuration with limits for a model and data of one's own, where it names none, and why they are these.

    Of the longest texts by characters the tokens are counted. A tokenizer that does not load changes nothing here: the
    preparation says what is wrong with it.
    """
    missing = set(LIMITS) - config.rollout.model_fields_set
    if config.model.path is None or isinstance(config.task, ArithmeticTask) or not missing:
        return config, ()
    tokenizer = ChatTokenizer(Path(config.model.path), config.model.chat_template)
    try:
        view, gold = _longest_view(config, task, tokenizer), _longest_gold(task, tokenizer)
        positions = tokenizer.limits.positions or _ANY
    except UserError:
        return config, ()
    positions = min(positions, config.rollout.engine.model_length(positions))
    prompt, completion = _rounded_up(1.05 * view), _rounded_up(max(_SHORTEST_ANSWER, 2 * gold))
    completion = min(completion, max(positions - prompt, positions // 4))
    defaults = [
        Default("rollout.max_prompt_tokens", min(prompt, positions - completion), f"the longest view has about {view}"),
        Default(
            "rollout.max_completion_tokens",
            completion,
            f"twice the longest worked solution's {gold} and at least {_SHORTEST_ANSWER}, as far as the model goes",
        ),
    ]
    defaults = [default for default in defaults if default.name.partition(".")[2] in missing]
    limits = {default.name.partition(".")[2]: default.value for default in defaults}
    return config.model_copy(update={"rollout": config.rollout.model_copy(update=limits)}), tuple(defaults)


def _longest_gold(task: Task, tokenizer: ChatTokenizer) -> int:
    texts = _distinct(example.demonstration for example in chain(task.train, task.evaluation))
    return max((len(tokenizer.encode_completion(text)) for text in nlargest(_COUNTED, texts, key=len)), default=0)


def _distinct(texts: Iterable[str]) -> Iterator[str]:
    """Each text once."""
    seen = set[int]()  # hashes: all the texts together may be larger than memory
    for text in texts:
        if (key := hash(text)) not in seen:
            seen.add(key)
            yield text


def _longest_view(config: Config, task: Task, tokenizer: ChatTokenizer) -> int:
    """Tokens of the longest prompt with whatever a view adds to it; of a context that a model writes, its limit."""
    read, written = config.contexts_read, 0
    asked = (task.student_messages(example) for example in chain(task.train, task.evaluation))
    solved = (
        with_demonstration(task.student_messages(example), example.demonstration)
        for example in (task.train if config.reads_teacher else ())
    )
    chats = nlargest(_COUNTED, chain(asked, solved), key=_characters)
    if read.primary == "another" and config.reads_teacher and task.train:
        demonstration = max((example.demonstration for example in task.train), key=len)
        longest_asked = max(map(task.student_messages, task.train), key=_characters)
        chats.append(with_demonstration(longest_asked, demonstration))
    if isinstance(read.auxiliary, InductionAuxiliary):
        written = read.auxiliary.max_tokens
    elif read.auxiliary is not None and task.train:
        donor = max(task.train, key=lambda example: len(example.question) + len(example.demonstration))
        reference = other_example(donor.question, donor.demonstration)
        chats.append(AUXILIARY_TEMPLATES[read.order](max(chats, key=_characters), reference))
    if isinstance(read.negative, GeneratedNegative):
        written = max(written, read.negative.max_tokens)
    longest = nlargest(_COUNTED, chats, key=_characters)
    return written + max((len(tokenizer.encode_view(chat)) for chat in longest), default=0)


def _characters(chat: Chat) -> int:
    return sum(len(turn.content) for turn in chat)


def _rounded_up(tokens: float) -> int:
    return -(-math.ceil(tokens) // 64) * 64


def check_held_out_lengths(lengths: Sequence[int], task: str, limit: int) -> None:
    """Check the lengths in tokens of a task's held-out problems: none is dropped, as the score would be of fewer, and
    of easier ones.

    Raises:
        UserError: one is longer than `limit`.
    """
    too_long = sum(length > limit for length in lengths)
    if too_long:
        raise UserError(
            f"{too_long} of {len(lengths)} held-out problems of {task} are longer than rollout.max_prompt_tokens = "
            f"{limit}: raise it, or take them out of the data"
        )


def select_examples(config: Config, task: Task, rows: Sequence[PreparedRow]) -> Prepared:
    """Drop the problems that do not fit, and count: nothing is ever cut.

    Raises:
        UserError: more than 5 % would be dropped, or no problem at all has a wrong demonstration.
    """
    limits, read = config.rollout, config.contexts_read
    views = read.auxiliary.views if read.auxiliary else 0
    solutions = _solutions(task) if read.negative else frozenset()
    kept, counts, longest = list[int](), Counter[str](), (0, "")
    for index, row in enumerate(rows):
        counts["right"] += row.right
        counts["implausible"] += row.implausible
        if row.lengths.prompt > limits.max_prompt_tokens or row.lengths.gold > limits.max_completion_tokens:
            counts["too_long"] += 1
            longest = max(longest, (max(row.lengths.prompt, row.lengths.gold), row.id), key=lambda length: length[0])
        elif len(row.contexts.auxiliary) < views or (read.primary == "another" and row.contexts.another is None):
            counts["without_views"] += 1
        else:
            kept.append(index)
            counts["without_negative"] += bool(read.negative) and row.contexts.negative is None
            counts["borrowed"] += hash(row.contexts.negative) in solutions
    report = PreparationReport(
        examples=len(rows),
        kept=len(kept),
        too_long=counts["too_long"],
        without_views=counts["without_views"],
        without_negative=counts["without_negative"],
        right=counts["right"],
        implausible=counts["implausible"],
        held_out=len(task.evaluation),
        borrowed=counts["borrowed"],
        longest=longest[0],
        longest_id=longest[1],
    )
    _check_losses(config, report)
    if isinstance(task.train, MappedExamples):
        contexts = Picked[Contexts](rows, kept, lambda row: row.contexts)
        return Prepared(Picked[Example](task.train, kept, lambda example: example), contexts, report)
    return Prepared(tuple(task.train[index] for index in kept), tuple(rows[index].contexts for index in kept), report)


def _solutions(task: Task) -> frozenset[int]:
    """Hashes of all worked solutions, for the wrong demonstrations that are another problem's; a bare "Answer: C" is
    nobody's."""
    return frozenset(hash(each.demonstration) for each in task.train if rationale_of(each.demonstration))


def _check_losses(config: Config, report: PreparationReport) -> None:
    most, total = config.contexts.max_dropped * report.examples, report.examples
    share = f"more than contexts.max_dropped = {config.contexts.max_dropped:.3g} of them"
    limits, read = config.rollout, config.contexts_read
    if report.too_long > most:
        gold = f" or a gold completion longer than rollout.max_completion_tokens = {limits.max_completion_tokens}"
        raise UserError(
            f"{report.too_long} of {total} problems have a view longer than rollout.max_prompt_tokens = "
            f"{limits.max_prompt_tokens}{gold if limits.sources.gold else ''}, {share} (the longest, "
            f"problem {report.longest_id!r}, has {report.longest} tokens): raise the limit, shorten the records, or "
            "raise contexts.max_dropped"
        )
    if report.dropped > most and read.auxiliary is not None:
        raise UserError(
            f"{report.dropped} of {total} problems are dropped, {share}: {report.without_views} have fewer than "
            f"contexts.auxiliary.views = {read.auxiliary.views} contexts that do not leak their answer, "
            f"{report.too_long} are too long; lower it, add training records, or choose another contexts.auxiliary.type"
        )
    if report.dropped > most:
        raise UserError(
            f"{report.dropped} of {total} problems are dropped, {share}: for {report.without_views} every other "
            f'demonstration gives their answer away, which contexts.primary = "{read.primary}" needs, '
            f"{report.too_long} are too long; add training records, or choose another contexts.primary"
        )
    if read.negative is not None and report.kept and report.without_negative == report.kept:
        raise UserError(
            f'contexts.negative.type = "{read.negative.type}" gives none of {report.kept} problems a demonstration '
            f"that the grader finds wrong ({report.right} candidates discarded as right, {report.implausible} as "
            "implausible): choose another type, or leave out objective.contrastive"
        )
