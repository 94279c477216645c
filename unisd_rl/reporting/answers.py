"""What models wrote, made ready to be shown: answers of evaluations side by side, and the tokens of sampled rollouts.

Models write anything: all of it goes to the page as text, by a template that escapes and a script that only sets text.
Characters that nobody sees, or that turn the direction of what follows, are shown by their numbers.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from unisd_rl.reporting.record import RecordedEvaluation, Row


class Tone(StrEnum):
    """What a fact means for whoever made the run."""

    GOOD = "good"
    BAD = "bad"
    OPEN = "open"


MOST_CHARACTERS = 4000
"""Of an answer or a view that is shown."""
_ASKED_CHARACTERS = 240
"""Of a question that stands above its answer."""
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)


def visible(text: str) -> str:
    """The text with a number, as `U+202E`, for each character that is not seen, turns text around, or is none."""
    return _UNSEEN.sub(lambda match: f"\u27e8U+{ord(match[0]):04X}\u27e9", text)


def shortened(text: str) -> str:
    """As `visible`, at most `MOST_CHARACTERS` of it, with what is left out."""
    left_out = len(text) - MOST_CHARACTERS
    return visible(text if left_out <= 0 else f"{text[:MOST_CHARACTERS]} [{left_out:,} characters more]")


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """A held-out problem, with its first answer before the run and after it."""

    problem: str
    question: str
    reference: str
    before: Row
    after: Row

    @property
    def verdict(self) -> str:
        """How the two differ."""
        before, after = bool(self.before["correct"]), bool(self.after["correct"])
        if before == after:
            return "right before and after" if after else "wrong before and after"
        return "now right" if after else "now wrong"

    @property
    def tone(self) -> Tone:
        """Whether that is a gain or a loss."""
        return {"now right": Tone.GOOD, "now wrong": Tone.BAD}.get(self.verdict, Tone.OPEN)


def answer_pairs(before: RecordedEvaluation, after: RecordedEvaluation, most: int) -> list[AnswerPair]:
    """Problems that both answered; those first whose grade is another, and of these gained and lost ones in turn."""
    firsts = {answer["id"]: answer for answer in reversed(before.answers)}
    seconds = {answer["id"]: answer for answer in reversed(after.answers)}
    by_verdict: defaultdict[str, list[AnswerPair]] = defaultdict(list)
    for problem in firsts.keys() & seconds.keys():
        one, other = firsts[problem], seconds[problem]
        question, reference = shortened(one.get("question", "")), shortened(one["reference"])
        pair = AnswerPair(visible(problem), question, reference, _shown(one), _shown(other))
        by_verdict[pair.verdict].append(pair)
    ordered = [sorted(by_verdict[verdict], key=lambda pair: pair.problem) for verdict in _ORDER]
    changed = [pair for pairs in zip(*_filled(ordered[:2]), strict=True) for pair in pairs if pair is not None]
    return [*changed, *ordered[2], *ordered[3]][:most]


def describe_changes(before: RecordedEvaluation, after: RecordedEvaluation) -> str:
    """How many problems that both answered became right, and wrong."""
    first, second = before.scores(), after.scores()
    moved = [second[problem] - first[problem] for problem in first.keys() & second.keys()]
    gained, lost = sum(each > 0 for each in moved), sum(each < 0 for each in moved)
    return f"Of {len(moved):,} problems {gained:,} got better and {lost:,} worse; some of both, in turn."


_ORDER = ("now right", "now wrong", "wrong before and after", "right before and after")


def _filled(lists: Sequence[Sequence[AnswerPair]]) -> list[list[AnswerPair | None]]:
    longest = max(map(len, lists))
    return [[*one, *[None] * (longest - len(one))] for one in lists]


def _shown(answer: Row) -> Row:
    return {**answer, "completion": shortened(answer["completion"])}


def sampled_problems(rows: Sequence[Row], most: int) -> list[list[Mapping[str, Any]]]:
    """Of each problem its sampled rollouts, the first and the last; those problems first that came more than once.

    Of the others there are some of the whole run.
    """
    problems: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        problems[row["id"]].append(row)
    several = [(found[0], found[-1]) for found in problems.values() if len(found) > 1][:most]
    lone = [(found[0],) for found in problems.values() if len(found) == 1]
    room = most - len(several)
    chosen = lone[:: max(1, -(-len(lone) // room))] if room else []  # spread over the run's steps
    return [[_sample(row) for row in rows] for rows in (*several, *chosen)]


def _sample(row: Row) -> dict[str, Any]:
    return {
        "step": row["step"],
        "number": row["number"],
        "problem": visible(row["id"]),
        "source": row["source"],
        "correct": row.get("correct"),
        "length": row["length"],
        "asked": visible(row["messages"][-1]["content"][:_ASKED_CHARACTERS]) if row["messages"] else "",
        "question": _chat(row["messages"]),
        "views": [{"kind": view["kind"], "text": _chat(view["messages"])} for view in row["views"]],
        "tokens": [visible(token) for token in row["tokens"]],
        "versions": row["versions"],
        "values": row["values"],
    }


def _chat(messages: Sequence[Mapping[str, str]]) -> str:
    return "\n\n".join(f"[{message['role']}]\n{shortened(message['content'])}" for message in messages)
