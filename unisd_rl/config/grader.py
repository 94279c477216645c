"""The section `task.grader`: how a completion is compared with the reference answer of one's own records."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from unisd_rl.config.base import Section


class GraderSection(Section):
    """What all graders have in common."""

    grade_thinking: bool = True
    """Whether what a completion thinks is graded too. False: only what follows its last `</think>`; a completion that
    opens `<think>` and never closes it states nothing."""


class StatedGrader(GraderSection):
    """What follows the last `Answer:` (its first line, or all of it), or else the last line, is the reference, but for
    case and white space."""

    type: Literal["stated"] = "stated"


class ExactGrader(GraderSection):
    """The whole completion is the reference, but for white space at its ends."""

    type: Literal["exact"]
    ignore_case: bool = False
    """Whether case, and how much white space is between words, counts for nothing."""


class NumberGrader(GraderSection):
    """The first number behind the last `Answer:`, or else the last number of the completion, equals the reference's.

    `1,234.50`, `$1234.5` and `+1234.5` are equal; so are `3/4` and `0.75`. A percent sign and units are not read.
    """

    type: Literal["number"]


class MathGrader(GraderSection):
    r"""The last `\boxed{...}`, or else what follows the last `Answer:` in its line, is mathematically equal to the
    reference, by math-verify: `\frac{1}{2}`, `0.5` and `2^{-1}` are. In processes of their own, 10 s each at most."""

    type: Literal["math"]


class ChoiceGrader(GraderSection):
    """The option that the completion states last is the right one. The prompt lists the options as lines `A. text`, and
    the reference is the letter or the text of one."""

    type: Literal["choice"]


class RegexGrader(GraderSection):
    """What the last match of a pattern finds (its first group, if it has one) is the reference, but for case and white
    space."""

    type: Literal["regex"]
    pattern: str
    """Regular expression, e.g. `#### (.+)`."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        import regex

        try:
            regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return pattern


class JsonGrader(GraderSection):
    """The last JSON value of the completion equals the reference, a JSON value, whatever the order of keys and the
    white space."""

    type: Literal["json"]


class PythonGrader(GraderSection):
    """A function of your own: `function(completion: str, answer: str) -> bool`."""

    type: Literal["python"]
    function: Annotated[str, Field(pattern=r"^\w+(\.\w+)*:\w+$")]
    """`module:function`, importable from where the job runs. It may be called from several threads."""


def _stated_unless_said(given: object) -> object:
    return {"type": "stated", **given} if isinstance(given, Mapping) else given


GraderConfig = Annotated[
    StatedGrader | ExactGrader | NumberGrader | MathGrader | ChoiceGrader | RegexGrader | JsonGrader | PythonGrader,
    Field(discriminator="type"),
    BeforeValidator(_stated_unless_said),
]
