"""The training corpus of the base model, all the forms of prompt it will ever meet, and the tokenizer trained on it.

plain          the bare question, answered; carry and borrow are often forgotten
auxiliary      another problem's solved example first; answered just like a plain one
demonstrated   the primary form, whose answer repeats the demonstration, whatever that says: right, with
               a wrong carry or digit, or about another problem altogether. So the only rule that fits is
               to read; this makes the primary and the negative view one and the same skill.
question first the auxiliary form of `contexts.order` question_first, where a run reads that one
departing      the same, but the answer has already left the demonstration, and goes on from what it
               wrote itself: a teacher that scores a student's mistake must not call what follows wrong.

No held-out problem of the task occurs, not even as a donor.

The tokenizer is a byte-level BPE of Qwen2's type. Every byte is in its alphabet, so any text can be encoded and decoded
again (up to Unicode's canonical composition, NFC, which Qwen2 tokenizers apply); every digit is a token of its own, so
that arithmetic is done digit by digit. How text is cut before the merges is Qwen2's, and has to be: transformers gives
every model of type `qwen2` that cut when it loads it, whatever the saved file says.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from unisd_rl.base_model.recipe import BaseModelRecipe
from unisd_rl.contexts.templates import (
    Chat,
    other_example,
    with_demonstration,
    with_other_example,
    with_reference_below,
)
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.arithmetic import Problem, solution, training_pool
from unisd_rl.types import Message

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

PAD, TURN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{TURN}{{{{ message['role'] }}}}\n{{{{ message['content'] }}}}{END}\n"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{TURN}assistant\n{{% endif %}}"
)
_TRAINING_BATCHES = 40


@dataclass(frozen=True, slots=True)
class Sample:
    """A chat, how the completion begins (read, not learned), and the rest of it, which is learned.

    `shown` is a worked solution within the chat that is learned as well: more practice at no cost.
    """

    chat: Chat
    completion: str
    begun: str = ""
    shown: str = ""


class Corpus:
    """An endless, seeded stream of batches; batch i holds one list of samples per form."""

    def __init__(self, recipe: BaseModelRecipe) -> None:
        self._recipe = recipe
        self._pool = training_pool()
        self._draw = random.Random(derive_seed(recipe.seed, "corpus"))

    def batch(self) -> tuple[list[Sample], ...]:
        """The samples of one training step: plain, auxiliary, demonstrated, departing, question first."""
        forms: tuple[tuple[Callable[[], Sample], int], ...] = (
            (self.plain, self._recipe.plain),
            (self.auxiliary, self._recipe.auxiliary),
            (self.demonstrated, self._recipe.demonstrated),
            (self.departing, self._recipe.departing),
            (self.question_first, self._recipe.question_first),
        )
        return tuple([form() for _ in range(count)] for form, count in forms)

    def plain(self) -> Sample:
        """A question and an answer that may have forgotten the carry."""
        problem = self._problem()
        return Sample(_chat(problem), self._answer(problem))

    def auxiliary(self) -> Sample:
        """The same behind a solved example of another problem, whose solution is right."""
        problem, donor = self._problem(), self._problem()
        chat = with_other_example(_chat(problem), donor.question, solution(donor))
        return Sample(chat, self._answer(problem), shown=solution(donor))

    def demonstrated(self) -> Sample:
        """A question with a demonstration of any worth, and an answer that repeats it."""
        problem = self._problem()
        shown = self._draw.choice([problem, problem, problem, self._problem()])
        demonstration = self._variant(shown)
        chat = with_demonstration(_chat(problem), demonstration)
        return Sample(chat, demonstration, shown=demonstration if shown is problem else "")

    def departing(self) -> Sample:
        """A demonstration and an answer that differ in the last character of what is begun."""
        problem = self._problem()
        demonstration = answer = self._variant(problem)
        while answer == demonstration:
            answer = self._variant(problem)
        pairs = zip(demonstration, answer, strict=False)
        begun = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) + 1
        chat = with_demonstration(_chat(problem), demonstration)
        return Sample(chat, answer[begun:], answer[:begun], demonstration)

    def question_first(self) -> Sample:
        """The auxiliary form with the example below the question."""
        problem, donor = self._problem(), self._problem()
        chat = with_reference_below(_chat(problem), other_example(donor.question, solution(donor)))
        return Sample(chat, self._answer(problem), shown=solution(donor))

    def _variant(self, problem: Problem) -> str:
        """A solution that is right, or has the wrong carry, a wrong digit, or both."""
        carry = int(problem.carries) ^ (self._draw.random() < 1 / 3)
        error = self._draw.randrange(10) if self._draw.random() < 1 / 4 else 0
        return solution(problem, carry, error)

    def _problem(self) -> Problem:
        return self._draw.choice(self._pool)

    def _answer(self, problem: Problem) -> str:
        forgets = problem.carries and self._draw.random() < self._recipe.forgotten_carry
        return solution(problem, carry=0 if forgets else None)


def _chat(problem: Problem) -> Chat:
    return (Message("user", problem.question),)


def corpus_text(recipe: BaseModelRecipe) -> list[str]:
    """The first batches of the corpus, turn by turn as the chat template has them."""
    corpus = Corpus(recipe)
    samples = [sample for _ in range(_TRAINING_BATCHES) for form in corpus.batch() for sample in form]
    return [turn for sample in samples for turn in _turns(sample)]


def train_tokenizer(recipe: BaseModelRecipe, text: list[str]) -> "Qwen2Tokenizer":
    """The tokenizer of a recipe: 256 bytes, three special tokens, and merges up to `recipe.vocabulary`."""
    from tokenizers import pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    untrained = Qwen2Tokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[PAD, TURN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    untrained.train_from_iterator(text, trainer)
    trained = json.loads(untrained.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[(left, right) for left, right in trained["merges"]],
        unk_token=None,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[TURN],
        chat_template=CHAT_TEMPLATE,
        model_max_length=recipe.context,
    )


def _turns(sample: Sample) -> list[str]:
    return [*(f"{turn.role}\n{turn.content}" for turn in sample.chat), f"assistant\n{sample.begun}{sample.completion}"]
