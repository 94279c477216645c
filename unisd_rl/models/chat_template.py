"""A model's chat template: from the turns of a chat to the text that is tokenised.

What beside the turns decides that text is given here and recorded by the run: the arguments that the template reads,
and the time that its clock shows. What it wrote is looked at: a turn that is not in the text was never asked.
"""

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisd_rl.errors import UserError
from unisd_rl.types import TOOLS, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CLOCK = "strftime_now"
_ASKED = ("system", "user")
_PROBE = "what is asked"


class ChatTemplate:
    """The template of one tokenizer, with arguments and a clock that stands still."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", model_path: Path, arguments: Mapping[str, Any], time: datetime
    ) -> None:
        """`tokenizer` has a template; of several it is the default one.

        Raises:
            UserError: the template does not read one of the arguments.
        """
        self._tokenizer, self._path, self._arguments = tokenizer, model_path, dict(arguments)
        try:
            self._source = tokenizer.get_chat_template()
        except ValueError as error:  # several, none of them the default
            raise UserError(f"the tokenizer of {model_path} has no chat template to take: {error}") from None
        self._check_arguments()
        if _CLOCK in self._source:
            self._arguments[_CLOCK] = time.strftime  # an argument stands before the function of the same name
        self._content_in_parts = False
        if not self._writes_what_is_asked():  # some templates take a list of parts and nothing else
            self._content_in_parts = True
            self._content_in_parts = self._writes_what_is_asked()

    def prompt(self, messages: Sequence[Message]) -> str:
        """The chat as text, up to where the model's answer begins.

        Raises:
            UserError: the template refuses the chat, or leaves out a turn of the system or the user, or a tool.
        """
        text = self._render(messages, True)
        for message in messages:
            if message.role in _ASKED and message.content.strip() not in text:
                raise UserError(
                    f"the chat template of {self._path} does not write what the {message.role} says "
                    f"({message.content.strip()[:40]!r}): mend it (it must write message.content, as a text or as a "
                    "list of parts), or take another model"
                )
        for tool in _tools_of(messages) or ():
            name = tool.get("function", tool).get("name", "")
            if str(name) not in text:
                raise UserError(
                    f"the chat template of {self._path} does not write the tool {name!r}: leave out task.fields.tools, "
                    "or take a model that was trained to call tools"
                )
        return text

    def transcript(self, messages: Sequence[Message]) -> str:
        """The chat as text, with no further answer begun."""
        return self._render(messages, False)

    def _render(self, messages: Sequence[Message], opens_answer: bool) -> str:
        chat = [
            {"role": message.role, "content": self._content(message)} | (json.loads(message.extra or "{}"))
            for message in messages
            if message.role != TOOLS
        ]
        try:
            return self._tokenizer.apply_chat_template(
                chat,
                tools=_tools_of(messages),
                add_generation_prompt=opens_answer,
                tokenize=False,
                **self._arguments,
            )
        except Exception as error:  # a template is a program: it may raise anything
            roles = ", ".join(message.role for message in messages)
            remedy = "put what the system says into the user's turn" if "system" in roles else "mend the template"
            raise UserError(
                f"the chat template of {self._path} refuses the turns {roles}: {error or type(error).__name__}; "
                f"{remedy}, or take another model"
            ) from None

    def _content(self, message: Message) -> str | list[dict[str, str]]:
        return [{"type": "text", "text": message.content}] if self._content_in_parts else message.content

    def _writes_what_is_asked(self) -> bool:
        try:
            return _PROBE in self._render([Message("user", _PROBE)], True)
        except UserError:
            return False

    def _check_arguments(self) -> None:
        given_by_us = {*inspect.signature(self._tokenizer.apply_chat_template).parameters, "messages", _CLOCK}
        for name in self._arguments:
            if name in given_by_us or not re.search(rf"\b{re.escape(name)}\b", self._source):
                raise UserError(
                    f"model.chat_template: {name!r} is no argument of the chat template of {self._path}: leave it out, "
                    "or write it as the template does"
                )


def _tools_of(messages: Sequence[Message]) -> list[dict[str, Any]] | None:
    """The tools that a chat's first turn declares."""
    return json.loads(messages[0].content) if messages and messages[0].role == TOOLS else None
