"""What a cached result is filed under: everything that it follows from, by content and not by name or date."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import xxhash

import unisd_rl
from unisd_rl.contexts.views import Problems
from unisd_rl.storage.files import fed
from unisd_rl.types import Example

_CODE = ("contexts", "tasks", "seeds.py", "models/tokenizer.py")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


def key_of(made_from: Mapping[str, Any]) -> str:
    """The name of the folder for what was made from these."""
    text = json.dumps(made_from, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def records(task: Problems, examples: Sequence[Example]) -> str:
    """Of these problems: every field, and what the student reads."""
    texts = (
        text
        for one in examples
        for text in (
            one.id,
            one.question,
            one.demonstration,
            one.answer,
            *(part for message in task.student_messages(one) for part in (message.role, message.content)),
        )
    )
    return _digest(text.encode("utf-8", "surrogatepass") for text in texts)


@cache
def code() -> str:
    """Of the modules that make, show and grade contexts: a better donor rule or another template is another result."""
    root = Path(unisd_rl.__file__).parent
    files = [
        path for name in _CODE for path in ([root / name] if name.endswith(".py") else (root / name).rglob("*.py"))
    ]
    return _digest(part for path in sorted(files) for part in (str(path.relative_to(root)).encode(), path.read_bytes()))


def model(path: Path | str, weights: bool) -> str:
    """Of a model folder: its configuration and tokenizer files, and with `weights` those too. Of a hub name: the name
    and the commit of the copy on this machine (fetched if there is none)."""
    folder = Path(path)
    if not folder.is_dir():
        return _digest([str(path).encode(), _hub_commit(str(path)).encode()])
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and _counts(file, weights)]
    return _digest(part for file in files for part in (file.name.encode(), fed(xxhash.xxh3_128(), file).digest()))


def _counts(file: Path, weights: bool) -> bool:
    return weights if file.suffix in _WEIGHTS else file.suffix in (".json", ".jinja", ".txt", ".model")


def _hub_commit(name: str) -> str:
    from transformers.utils import cached_file

    try:
        found = cached_file(name, "config.json")
    except OSError:  # whoever loads the model says what is wrong with it
        return ""
    return Path(found).parent.name if found else ""


def _digest(parts: Iterable[bytes]) -> str:
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))  # tells ("ab", "c") from ("a", "bc")
        state.update(part)
    return state.hexdigest()
