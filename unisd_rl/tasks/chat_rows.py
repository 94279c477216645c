"""Chats as records have them: a list of turns, each with `role` and `content`, or as ShareGPT names them `from` and
`value`; in a file of text also as one JSON text.

```
[system] [user, assistant, ..., tool] user | assistant
what the student reads ------------------- | the worked solution
```
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from unisd_rl.tasks.source_records import SourceRecord, half_of_a_pair
from unisd_rl.types import TOOLS, Message

Chat = tuple[Message, ...]
_ROLES = {"human": "user", "gpt": "assistant"}
_OUR_KEYS = ("role", "content", "from", "value")
_SPEAKERS = {"user": "User", "assistant": "Assistant"}


def is_chat(value: object) -> bool:
    """Whether a field's value is a list of turns."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def chat_of(record: SourceRecord, field: str, asks: bool = True) -> Chat:
    """The chat of a field, in which the user asks something, unless `asks` is false.

    Raises:
        UserError: it is none; the sentence names the record, the field and the turn.
    """
    turns = _list_of(record, field, "a list of turns, each with role and content")
    chat = tuple(_turn(record, f"{field}[{number}]", turn) for number, turn in enumerate(turns))
    if asks and not any(turn.role == "user" for turn in chat):
        raise record.wrong(f"field {field!r} has no turn of 'user': every chat must ask something")
    return chat


def tools_of(record: SourceRecord, field: str) -> Message:
    """The first turn that declares the tools of a field.

    Raises:
        UserError: they are no list of objects with a name.
    """
    tools = _without_none(_list_of(record, field, "a list of tools, each a JSON schema"))
    for tool in tools:
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise record.wrong(f"field {field!r} holds {tool!r:.80}, which is no tool: it must have a name")
    return Message(TOOLS, json.dumps(tools, ensure_ascii=False))


def solved(record: SourceRecord, field: str, chat: Chat) -> tuple[Chat, str]:
    """What comes before the last turn of a chat, and what the assistant says there.

    Raises:
        UserError: the last turn is another's, says nothing, or nothing comes before it.
    """
    last = chat[-1]
    if last.role != "assistant" or not last.content.strip():
        says = "says nothing" if last.role == "assistant" else f"is one of {last.role!r}"
        raise record.wrong(
            f"field {field!r} must end with what the assistant answers, but its last turn {says}: end it with the "
            "worked solution, or name the field that has it as task.fields.demonstration"
        )
    return asking(record, field, chat[:-1]), last.content


def asking(record: SourceRecord, field: str, chat: Chat) -> Chat:
    """A chat that ends where the assistant has to answer: with a turn of the user, or with what a tool returned.

    Raises:
        UserError: it does not.
    """
    if not chat or chat[-1].role not in ("user", "tool"):
        last = f"by {chat[-1].role!r}" if chat else "by nobody"
        raise record.wrong(f"field {field!r}: the turn before the answer is {last}, but must be of 'user' or 'tool'")
    return chat


def question_of(chat: Chat) -> str:
    """What a chat asks, as one text: the user's one turn, or all of the conversation but the system's part."""
    turns = [turn for turn in chat if turn.role not in ("system", TOOLS)]
    if len(turns) == 1:
        return turns[0].content
    said = (f"{_SPEAKERS.get(turn.role, turn.role.capitalize())}: {turn.content or turn.extra}" for turn in turns)
    return "\n\n".join(said)


def _turn(record: SourceRecord, name: str, turn: object) -> Message:
    if not isinstance(turn, Mapping):
        raise record.wrong(f"{name} must be a turn with role and content, but it is {turn!r:.80}")
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if not isinstance(role, str) or not role or role == TOOLS:
        raise record.wrong(f"{name} must have a role such as 'user' or 'assistant', but it has {role!r:.80}")
    extra = _without_none({key: value for key, value in turn.items() if key not in _OUR_KEYS})
    text = _text(content)
    if text is None or not (text.strip() or extra):
        raise record.wrong(f"{name} must have a content that is text and not empty, but it is {content!r:.80}")
    if half := half_of_a_pair([role, text]):
        raise record.wrong(f"{name} holds {half!r}, half of a surrogate pair, which is no character")
    return Message(_ROLES.get(role, role), text, json.dumps(extra, ensure_ascii=False) if extra else "")


def _text(content: object) -> str | None:
    """The text of a turn, in one piece or in parts; None where it holds something else. None is nothing said."""
    if content is None:
        return ""
    if is_chat(content):
        parts = [part.get("text") if part.get("type") == "text" else None for part in _parts(content)]
        return None if None in parts else "".join(map(str, parts))
    return content if isinstance(content, str) else None


def _parts(content: Any) -> Sequence[Mapping[str, Any]]:
    return [part if isinstance(part, Mapping) else {} for part in content]


def _list_of(record: SourceRecord, field: str, kind: str) -> list[Any]:
    value = record.values.get(field)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if field in record.values and not (isinstance(value, list) and value):
        raise record.wrong(f"field {field!r} must be {kind}, but it is {record.values[field]!r:.80}")
    return record.items(field) if value is None else value


def _without_none(value: Any) -> Any:
    """A value without keys that hold nothing: tables give every turn all the keys that any has."""
    if isinstance(value, Mapping):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list) else value
