"""Where text becomes tokens and back: the model's own tokenizer and chat template.

```
chat --ChatTemplate--> text of a prompt --> tokens of the prompt                            encode, encode_view
                       text of a prompt + an answer --> tokens of the answer, and its end   encode_completion
                       tokens of a prompt + an answer --> text of the answer                decode
```

An answer is a part of a sequence, and tokenizers treat the first token of a text unlike others (they add a space, or
take one off). So it is turned into tokens, and back into text, behind a prompt.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unisd_rl.config.model import ChatTemplateConfig
from unisd_rl.errors import UserError
from unisd_rl.models.chat_template import ChatTemplate
from unisd_rl.models.check import ModelLimits, model_limits
from unisd_rl.types import Message, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"
_QUESTION, _ANSWER = Message("user", "question"), Message("assistant", "answer")


class ChatTokenizer:
    """Encodes chats the way the model was trained to read them. Never runs code that lies beside a model.

    transformers is imported at first use, so that constructing one costs nothing.
    """

    def __init__(self, model_path: Path, chat_template: ChatTemplateConfig | None = None) -> None:
        """A clock that `chat_template` does not stop stands at the present time."""
        self._path, self._settings = model_path, chat_template or ChatTemplateConfig()
        self._time = self._settings.time or datetime.now()

    def render(self, messages: Sequence[Message]) -> str:
        """The text of the chat as the student reads it, up to where the answer begins; errors as `encode`."""
        return self._student.prompt(messages)

    def render_view(self, messages: Sequence[Message]) -> str:
        """The same of a teacher's view."""
        return self._teacher.prompt(messages)

    def encode(self, messages: Sequence[Message]) -> Tokens:
        """Token ids of the chat as the student reads it, up to where the answer begins. Shape [length], int32.

        Raises:
            UserError: see `ChatTemplate.prompt`; or the model has no embedding for a token.
        """
        return self._embedded(self._ids(self.render(messages)))

    def encode_view(self, messages: Sequence[Message]) -> Tokens:
        """The same of a teacher's view, which may have template arguments of its own."""
        return self._embedded(self._ids(self.render_view(messages)))

    def encode_completion(self, text: str) -> Tokens:
        """Token ids of `text` as the model would have to write it: its tokens, and the one that ends its turn.

        Raises:
            UserError: the model has no token that ends a turn, or no embedding for a token.
        """
        return self._embedded([*self._ids_of_answer(self._gap + text), self._end_of_turn])

    def encode_choices(
        self, messages: Sequence[Message], texts: Sequence[str]
    ) -> tuple[Tokens, tuple[int, ...]] | None:
        """Token ids of the chat with what all of the answers `texts` begin with, [length] int32, and of each answer the
        token that comes next. Which of these is the likeliest says which answer is, as far as that token decides.

        None where two of the answers go on with the same token.

        Raises:
            UserError: as `encode`.
        """
        answers = [self._ids_of_answer(self._gap + text) for text in texts]
        shared = len(list(takewhile(lambda tokens: len(set(tokens)) == 1, zip(*answers, strict=False))))
        following = tuple(ids[shared] if len(ids) > shared else self._end_of_turn for ids in answers)
        if len(set(following)) < len(texts):
            return None
        return self._embedded([*self._ids(self.render(messages)), *answers[0][:shared]]), following

    def decode(self, tokens: Tokens) -> str:
        """Text of a completion as it stands behind a prompt, special tokens left out.

        Neither what the template writes between prompt and answer nor the half of a character that a limit left over
        is part of it.
        """
        ids = tokens.tolist()
        text = self._text_of_answer(ids)
        if ids and ids[-1] not in self.stop_tokens:  # it was cut
            text = text.rstrip(_HALF_CHARACTER)
        return text.removeprefix(self._space_before_answers)

    def pieces(self, tokens: Tokens) -> list[str]:
        """What each token of a completion adds to its text, special tokens included.

        Of a character that several tokens spell the last one has it all, the others are empty.
        """
        from tokenizers.decoders import DecodeStream

        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return [self._token(token) for token in tokens.tolist()]
        stream = DecodeStream(skip_special_tokens=False)
        return [stream.step(backend, token) or "" for token in tokens.tolist()]

    @cached_property
    def stop_tokens(self) -> tuple[int, ...]:
        """Tokens that end an answer: those that the tokenizer, generation_config.json or config.json names.

        Raises:
            UserError: none of the three names one that the model can write.
        """
        named, rows = {self._tokenizer.eos_token_id, *self._generation_stops()} - {None}, self.limits.vocabulary
        stops = tuple(sorted(token for token in named if rows is None or token < rows))
        if not stops:
            raise UserError(
                f"model.path = {self._path} has no end-of-sequence token, so no answer would end: name one as "
                "eos_token_id in its generation_config.json"
            )
        return stops

    @cached_property
    def limits(self) -> ModelLimits:
        """How many tokens and positions the model itself has."""
        return model_limits(self._path)

    @cached_property
    def prompt_inputs(self) -> dict[str, object]:
        """What decides the tokens of a prompt beside its turns and the model's files, to file cached lengths under."""
        return {
            "student": self._settings.student,
            "teacher": self._settings.teacher,
            "rendered": [template.prompt([_QUESTION]) for template in (self._student, self._teacher)],  # with its clock
        }

    def check(self) -> tuple[str, ...]:
        """Check what tokenizer and template alone tell; returns what a person should know.

        Raises:
            UserError: no answer would end, the template ends turns with a token that ends no answer, it is broken, or
                the model has no embedding for what it writes.
        """
        self.encode([_QUESTION])
        self.encode_view([_QUESTION])
        if not self._ends_written:
            return (
                f"the chat template of {self._path} writes no end-of-sequence token after an answer "
                f"({self._after_answer!r}); gold completions get {self._token(self._end_of_turn)!r}",
            )
        return ()

    @cached_property
    def _end_of_turn(self) -> int:
        """What the chat template writes after an assistant's words; not always the tokenizer's own end (Gemma)."""
        ends = self._ends_written or [self._tokenizer.eos_token_id, *self.stop_tokens]
        return next(token for token in ends if token is not None)

    @cached_property
    def _ends_written(self) -> list[int]:
        """The stop tokens that the template writes after an answer, in order."""
        written, stops = self._ids(self._after_answer), set(self.stop_tokens)
        special = [token for token in written if token in self._special]
        if special and not stops.intersection(written):
            names = [self._token(stop) for stop in self.stop_tokens]
            raise UserError(
                f"the chat template of {self._path} ends an answer with {self._token(special[0])!r}, which is none of "
                f"its end-of-sequence tokens ({', '.join(names)}), so answers would not end: add {special[0]} to "
                "eos_token_id in its generation_config.json"
            )
        return [token for token in written if token in stops]

    @cached_property
    def _after_answer(self) -> str:
        """What the template writes behind an assistant's last word."""
        return self._student.transcript([_QUESTION, _ANSWER]).rpartition(_ANSWER.content)[2]

    @cached_property
    def _prompt(self) -> str:
        return self._student.prompt([_QUESTION])

    @cached_property
    def _prompt_ids(self) -> list[int]:
        return self._ids(self._prompt)

    @cached_property
    def _gap(self) -> str:
        """White space that the template writes between a prompt and an answer (Llama 2: one space)."""
        turns = self._student.transcript([_QUESTION, _ANSWER])
        between = turns.removeprefix(self._prompt).partition(_ANSWER.content)[0]
        return between if turns.startswith(self._prompt) and not between.strip() else ""

    @cached_property
    def _space_before_answers(self) -> str:
        """The same as tokens spell it, with the space that some tokenizers put behind a special token."""
        text = self._text_of_answer(self._ids_of_answer(self._gap + _ANSWER.content))
        return "".join(takewhile(str.isspace, text))

    def _ids_of_answer(self, text: str) -> list[int]:
        ids, start = self._ids(self._prompt + text), len(self._prompt_ids)
        # Where prompt and text share a token, a model that was given the prompt's tokens writes the text's own.
        return ids[start:] if ids[:start] == self._prompt_ids else self._ids(text)

    def _text_of_answer(self, ids: list[int]) -> str:
        before, whole = self._text(self._prompt_ids), self._text([*self._prompt_ids, *ids])
        return whole.removeprefix(before) if whole.startswith(before) else self._text(ids)

    def _ids(self, text: str) -> list[int]:
        if backend := getattr(self._tokenizer, "backend_tokenizer", None):  # with offsets it takes half as long again
            return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _text(self, ids: list[int]) -> str:
        # Clean-up would take spaces before punctuation out of a program.
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _token(self, token: int) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(token))

    def _embedded(self, ids: Sequence[int]) -> Tokens:
        rows, largest = self.limits.vocabulary, max(ids, default=0)
        if rows is not None and largest >= rows:
            raise UserError(
                f"the tokenizer of {self._path} writes token {largest} ({self._token(largest)!r}), and the model has "
                f"{rows} embeddings: give it more (model.resize_token_embeddings), or take the token out of the "
                "tokenizer"
            )
        return np.asarray(ids, np.int32)

    @cached_property
    def _special(self) -> frozenset[int]:
        added = self._tokenizer.added_tokens_decoder
        return frozenset({*self._tokenizer.all_special_ids, *(token for token in added if added[token].special)})

    @cached_property
    def _student(self) -> ChatTemplate:
        return ChatTemplate(self._tokenizer, self._path, self._settings.student, self._time)

    @cached_property
    def _teacher(self) -> ChatTemplate:
        if self._settings.teacher is None:
            return self._student
        return ChatTemplate(self._tokenizer, self._path, self._settings.teacher, self._time)

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        files = sorted(self._path.iterdir()) if self._path.is_dir() else []
        return _load_tokenizer(self._path, tuple((file.name, file.stat().st_mtime_ns) for file in files))

    def _generation_stops(self) -> set[int]:
        """Those of generation_config.json and of config.json, which transformers reads where there is no such file."""
        from transformers import GenerationConfig, PreTrainedConfig

        stops = set[int]()
        for read in (
            lambda: GenerationConfig.from_pretrained(str(self._path)),
            lambda: GenerationConfig.from_model_config(PreTrainedConfig.get_config_dict(str(self._path))[0]),
        ):
            try:
                named = read().eos_token_id
            except OSError:  # the file is optional
                continue
            several = named if isinstance(named, list) else [] if named is None else [named]
            if not all(isinstance(token, int) for token in several):
                raise UserError(
                    f"model.path = {self._path} names eos_token_id = {named!r}, which is no number of a token: mend "
                    "its generation_config.json or config.json"
                )
            stops |= {token for token in several if token >= 0}  # -1 is none
        return stops


@lru_cache(maxsize=8)
def _load_tokenizer(path: Path, _changed: tuple[tuple[str, int], ...]) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model, loaded once in a process while its files, by name and time of change, are the same:
    limits, preparation and retention read with it one after the other, and a large one takes a second to load."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except Exception as error:  # transformers raises almost anything about files that are damaged
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"model.path = {path} has no tokenizer that loads: {reason}") from None
    if tokenizer.chat_template is None:
        raise UserError(f"the tokenizer of {path} has no chat template; use a chat model or add one")
    if backend := getattr(tokenizer, "backend_tokenizer", None):  # a file may say both
        backend.no_truncation()
        backend.no_padding()
    return tokenizer
