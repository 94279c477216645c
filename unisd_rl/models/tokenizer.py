"""Where text becomes tokens and back: the model's own tokenizer and chat template."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unisd_rl.errors import UserError
from unisd_rl.types import Message, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatTokenizer:
    """Encodes chats the way the model was trained to read them. Never runs code that lies beside a model.

    transformers is imported at first use, so that constructing one costs nothing.
    """

    def __init__(self, model_path: Path) -> None:
        self._path = model_path

    def encode(self, messages: Sequence[Message]) -> Tokens:
        """Token ids of the chat, up to where the model's answer begins. Shape [length], int32."""
        chat = [{"role": message.role, "content": message.content} for message in messages]
        text = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        if backend := getattr(self._tokenizer, "backend_tokenizer", None):  # with offsets it takes half as long again
            ids = backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        else:
            ids = self._tokenizer.encode(text, add_special_tokens=False)
        return np.asarray(ids, np.int32)

    def encode_completion(self, text: str) -> Tokens:
        """Token ids of `text` as the model would have to write it: its tokens, and the one that ends its turn.

        Raises:
            UserError: the model has no token that ends a turn.
        """
        return np.asarray([*self._tokenizer.encode(text, add_special_tokens=False), self._end_of_turn], np.int32)

    def decode(self, tokens: Tokens) -> str:
        """Text of a completion, special tokens left out."""
        return self._tokenizer.decode(tokens.tolist(), skip_special_tokens=True)

    @cached_property
    def stop_tokens(self) -> tuple[int, ...]:
        """Tokens that end an answer: the tokenizer's own, and those of the model's generation settings."""
        found = {self._tokenizer.eos_token_id, *self._generation_stops()} - {None}
        return tuple(sorted(found))

    @cached_property
    def _end_of_turn(self) -> int:
        """What the chat template writes after an assistant's words; not always the tokenizer's own end (Gemma)."""
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        ids = self._tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
        ends = [token for token in ids if token in self.stop_tokens] or [self._tokenizer.eos_token_id]
        if ends[-1] is None:
            raise UserError(f"the tokenizer of {self._path} has no end-of-sequence token, so no answer would end")
        return ends[-1]

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(self._path), trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UserError(f"model.path = {self._path} has no tokenizer that loads: {error}") from None
        if tokenizer.chat_template is None:
            raise UserError(f"the tokenizer of {self._path} has no chat template; use a chat model or add one")
        if backend := getattr(tokenizer, "backend_tokenizer", None):  # a file may say both
            backend.no_truncation()
            backend.no_padding()
        return tokenizer

    def _generation_stops(self) -> tuple[int, ...]:
        from transformers import GenerationConfig

        try:
            stops = GenerationConfig.from_pretrained(str(self._path)).eos_token_id
        except OSError:  # the file is optional
            return ()
        return (stops,) if isinstance(stops, int) else tuple(stops or ())
