"""Candidates with a planted bug, for a task whose demonstrations hold a Python program."""

import re
from collections.abc import Iterator

from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.program_mutations import buggy_programs
from unisd_rl.types import Example

_FENCE = re.compile(r"^[ \t]*```[\w+-]*[ \t]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)


def bug_candidates(example: Example, seed: int) -> Iterator[str]:
    """The demonstration with one bug in the last of its programs; the four kinds in turn, in a seeded order.

    Some bugs change nothing that a test sees: grade them. A demonstration without a Python program gives none.
    """
    blocks = list(_FENCE.finditer(example.demonstration))
    start, end = blocks[-1].span(1) if blocks else (0, len(example.demonstration))
    before, program, after = (
        example.demonstration[:start],
        example.demonstration[start:end],
        example.demonstration[end:],
    )
    for buggy in buggy_programs(program, derive_seed(seed, "bugs", example.id)):
        yield before + buggy + after
