"""Which field of a record is the prompt or chat, the worked solution, the answer: guessed from what such fields are
called and hold."""

from collections.abc import Collection, Iterable, Mapping

from unisd_rl.config.task import Fields
from unisd_rl.tasks.chat_rows import chat_of
from unisd_rl.tasks.source_records import SourceRecord

USUAL: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "problem", "instruction", "query", "input", "text"),
    "demonstration": (
        "demonstration", "worked_solution", "solution", "rationale", "explanation", "reasoning", "worked", "completion",
        "response", "output",
    ),
    "answer": ("answer", "final_answer", "reference", "result", "target", "label", "gold"),
}  # fmt: skip
"""Names of each, the likeliest first."""
CHATS, TOOLS = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog"), ("tools", "functions")
"""The same of a chat, and of the tools that it may call."""
_MEANING = {"prompt": "what the student reads", "demonstration": "a worked solution", "answer": "the reference answer"}


def guessed_fields(record: SourceRecord, given: Mapping[str, str]) -> Fields:
    """Which field of records like this one is what; `given` are those that a person named.

    Raises:
        UserError: none looks like one that is needed; the sentence ends with how to name it.
    """
    chat = given.get("messages") or (None if "prompt" in given else _usual(record, CHATS, ()))
    if chat is None:
        return Fields(**_needed(record, given, USUAL))
    found = {**given, "messages": chat}
    if "demonstration" not in found and chat_of(record, chat)[-1].role != "assistant":
        found |= _needed(record, found, ("demonstration",))
    for role, usual in (("answer", USUAL["answer"]), ("tools", TOOLS)):
        if role not in found and (name := _usual(record, usual, found.values())) is not None:
            found[role] = name
    return Fields(**found)


def _needed(record: SourceRecord, given: Mapping[str, str], roles: Iterable[str]) -> dict[str, str]:
    found = dict(given)
    for role in roles:
        if role in found:
            continue
        name = _usual(record, USUAL[role], found.values())
        if name is None:
            raise record.wrong(
                f"no field is called as {_MEANING[role]} usually is; its fields are {', '.join(record.values)}: name "
                f"the right one with --{role} FIELD, or write one into the records"
            )
        found[role] = name
    return found


def _usual(record: SourceRecord, usual: Iterable[str], taken: Collection[str]) -> str | None:
    """The field with the likeliest of these names that holds something."""
    by_lower = {name.lower(): name for name, value in record.values.items() if value not in (None, "", [])}
    return next((by_lower[word] for word in usual if word in by_lower and by_lower[word] not in taken), None)
