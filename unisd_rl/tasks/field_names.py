"""Which field of a record is the prompt, the worked solution, the answer: guessed from what such fields are called."""

from collections.abc import Mapping, Sequence

from unisd_rl.config.task import Fields
from unisd_rl.errors import UserError

USUAL: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "problem", "instruction", "query", "input", "text"),
    "demonstration": (
        "demonstration", "worked_solution", "solution", "rationale", "explanation", "reasoning", "worked", "completion",
        "response", "output",
    ),
    "answer": ("answer", "final_answer", "reference", "result", "target", "label", "gold"),
}  # fmt: skip
"""Names of each, the likeliest first."""
_MEANING = {"prompt": "what the student reads", "demonstration": "a worked solution", "answer": "the reference answer"}


def guessed_fields(names: Sequence[str], given: Mapping[str, str], source: str) -> Fields:
    """Which of the fields `names` is what; `given` are those that a person named.

    Raises:
        UserError: none looks like one of the three; the sentence ends with how to name it.
    """
    by_lower = {name.lower(): name for name in names}
    found = dict(given)
    for role, usual in USUAL.items():
        if role in found:
            continue
        free = [word for word in usual if word in by_lower and by_lower[word] not in found.values()]
        if not free:
            raise UserError(
                f"{source}: no field is called as {_MEANING[role]} usually is; its fields are {', '.join(names)}: name "
                f"the right one with --{role} FIELD, or write one into the records"
            )
        found[role] = by_lower[free[0]]
    return Fields(**found)
