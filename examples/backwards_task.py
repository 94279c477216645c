"""Spell a word backwards."""

import random
from collections.abc import Iterator

from unisd_rl.types import Example, Message

WORDS = "river stone cloud paper tiger lemon chair piano ocean bread night glass horse green dance smile".split()


def example(word: str) -> Example:
    letters = ", ".join(reversed(word))
    return Example(
        id=word,
        question=f"Spell {word} backwards.",
        demonstration=f"The letters from the last to the first: {letters}.\nAnswer: {word[::-1]}",
        answer=word[::-1],
    )


class Backwards:
    """What the system asks of a task; examples are made once, training and held-out ones are disjoint."""

    def __init__(self, held_out: int) -> None:
        examples = [example(word) for word in WORDS]
        self.train, self.evaluation = examples[held_out:], examples[:held_out]

    def student_messages(self, example: Example) -> tuple[Message, ...]:
        """What the student reads. Nothing of the solution may be in it."""
        return (Message("user", f"{example.question} End with a line 'Answer: ' and the letters."),)

    def grade(self, completion: str, example: Example) -> bool:
        """Any text is possible here, and the last stated answer counts."""
        _, stated, answer = completion.rpartition("Answer:")
        return bool(stated) and answer.strip().lower() == example.answer

    def wrong_demonstrations(self, example: Example, seed: int) -> Iterator[str]:
        """Solutions that should be wrong; each is checked with `grade` before a teacher reads it."""
        draw = random.Random(f"{seed} {example.id}")
        for _ in range(8):
            letters = list(example.answer)
            draw.shuffle(letters)
            yield f"The letters from the last to the first: {', '.join(letters)}.\nAnswer: {''.join(letters)}"


def load(held_out: int = 4) -> Backwards:
    return Backwards(held_out)
