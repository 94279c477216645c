"""Form and knowledge of multiple choice: an accuracy is low where a model does not know, and where it does not say.

| number | what it tells |
|---|---|
| stated | answers that state an option at all; the rest misses the form |
| accuracy of those | knowledge, as far as the form is met |
| accuracy by likelihood | of the option whose answer line the model finds likeliest: no form to miss |
| chance, the most frequent letter | what knowing nothing gives |

The likelihood is of the first token in which the answer lines differ, their letters, with all before it given.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from unisd_rl.tasks.task import HasOptions, Task
from unisd_rl.types import Answer, Example


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """The numbers of multiple choice beside the accuracy; shares from 0 to 1.

    `accuracy_of_stated` is nan where no answer states an option, and `likelihood_accuracy` where some problem's options
    could not be told apart by a token.
    """

    stated: int
    accuracy_of_stated: float
    likelihood_accuracy: float
    chance: float
    most_frequent: float
    letter: str
    """The letter that is right most often among these problems; always answering it is `most_frequent` right."""

    def describe(self, answers: int) -> str:
        """One line for the console; `answers` were given in all."""
        parts = [f"{self.stated} of {answers} answers state an option"]
        if self.stated:
            parts[0] += f", {self.accuracy_of_stated:.1%} of those are right"
        if not math.isnan(self.likelihood_accuracy):
            parts.append(f"the likeliest option is right for {self.likelihood_accuracy:.1%}")
        return "; ".join([*parts, f"chance {self.chance:.1%}, always {self.letter} {self.most_frequent:.1%}"])


def options_of_task(task: Task) -> HasOptions | None:
    """The task, where it is one of multiple choice and all of its held-out problems have options."""
    if isinstance(task, HasOptions) and all(len(task.option_answers(example)) > 1 for example in task.evaluation):
        return task
    return None


def choice_scores(
    task: HasOptions, examples: Sequence[Example], answers: Sequence[Answer], likeliest: Sequence[str | None]
) -> ChoiceScores:
    """From all answers, and of each problem the letter of its likeliest option, None where that could not be told."""
    right = [task.right_letters(example) for example in examples]
    stated = [answer for answer in answers if answer.stated is not None]
    by_likelihood = [letter in letters for letter, letters in zip(likeliest, right, strict=True)]
    letter, count = Counter(letter for letters in right for letter in letters).most_common(1)[0]
    return ChoiceScores(
        stated=len(stated),
        accuracy_of_stated=sum(answer.correct for answer in stated) / len(stated) if stated else math.nan,
        likelihood_accuracy=math.nan if None in likeliest else sum(by_likelihood) / len(examples),
        chance=sum(
            len(letters) / len(task.option_answers(example)) for letters, example in zip(right, examples, strict=True)
        )
        / len(examples),
        most_frequent=count / len(examples),
        letter=letter,
    )
