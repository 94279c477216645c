"""Negatives written by the model: confident solutions that are mistaken, in the form of right ones.

Two ways, in turn. First the model is asked for one particular mistake, another each time: the argument for a wrong
option, one kind of bug, a call that differs in one respect, or a slip of the pen. Then it is asked nothing but the
problem: what it gets wrong by itself is the likeliest mistake of all. The grader tells.
"""

import random
from collections.abc import Callable, Sequence

from unisd_rl.contexts.leakage import calls_in, functions_of, options_of, right_letter
from unisd_rl.contexts.templates import Chat, with_reference
from unisd_rl.seeds import derive_seed
from unisd_rl.types import Example

Write = Callable[[Sequence[Chat], str], Sequence[str | None]]
"""Lets the model answer chats: the texts, None for each that was too long or was cut. The name seeds the sampling."""

_PLAIN = (
    "Write a solution of the problem below that sounds sure of itself but is mistaken: {mistake}. Do not say that "
    "anything is wrong. Keep to the form that is asked for."
)
_SLIPS = (
    "make a slip in one step and carry it on to the end",
    "overlook one condition",
    "mix up two quantities",
    "stop one step too early",
)
_BUGS = (
    "one loop or index is off by one",
    "one operator or comparison is the wrong one",
    "one edge case is forgotten",
    "the wrong value is returned at the end",
)
_CALLS = (
    "call another function than the one that is needed",
    "give one argument a wrong value",
    "misread what is asked for",
    "make one call more than is needed",
)


class WrittenCandidates:
    """`Candidates` (see `negative.py`) that the model writes."""

    def __init__(self, messages: Callable[[Example], Chat], write: Write, seed: int) -> None:
        self._messages, self._write, self._seed = messages, write, seed

    def propose(self, examples: Sequence[Example], attempt: int) -> Sequence[str | None]:
        """See `Candidates.propose`."""
        texts = self._write([self._request(one, attempt) for one in examples], f"negatives {attempt}")
        return ["" if text is None else text.strip() for text in texts]  # "" is discarded, and counted

    def _request(self, example: Example, attempt: int) -> Chat:
        chat, (round_, bare) = self._messages(example), divmod(attempt, 2)
        return chat if bare else with_reference(chat, mistake_request(example, round_, self._seed))


def mistake_request(example: Example, number: int, seed: int) -> str:
    """What is asked for beside the problem, one mistake after the other in a seeded order."""
    draw = random.Random(derive_seed(seed, "mistake", example.id))
    right, options = right_letter(example), options_of(example)
    if right is not None:
        wrong = [letter for letter in options if options[letter] != options[right]]
        draw.shuffle(wrong)
        if wrong:
            letter = wrong[number % len(wrong)]
            return _PLAIN.format(
                mistake=f"argue in two to four sentences for {letter} ({options[letter]}), and answer {letter}"
            )
    kinds = list(_CALLS if calls_in(example.answer) else _BUGS if functions_of(example.demonstration) else _SLIPS)
    draw.shuffle(kinds)
    return _PLAIN.format(mistake=kinds[number % len(kinds)])
