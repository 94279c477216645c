"""The commands of the documents, word for word: what a reader types is accepted.

Every command of a `console` block is one of these:

- `python -m unisd_rl.run`, `prepare`, `evaluate`: run as it stands, with `--dry-run` behind it;
- `python -m unisd_rl.replay`, `scale`, `compact`, `status`, which need a run, `unisd-rl ablate`, `push`: options are in
  `--help`, fields exist;
- `ray job submit ... -- COMMAND`: the command behind `--`, as above;
- `make TARGET`: the target exists; `python FILE`: the file exists; a few words of the shell, and of vLLM and curl.

Names that a reader fills in, and files of a reader's own, are replaced by some that are here. The quick start is also
run in full, in test_documents.py.
"""

import re
import shlex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w

from docs.check import ROOT, documents, fields
from tests.fakes.commands import SMALL, command, dry_run
from tests.fakes.tiny_chat_model import save_model, save_tokenizer
from unisd_rl.__main__ import main
from unisd_rl.config.load import load_recipe
from unisd_rl.storage.checkpoints import write_manifest

DRY = ("run", "prepare", "evaluate")
NEED_A_RUN = ("replay", "scale", "compact", "status", "init", "report", "compare", "ablate", "push")
ELSEWHERE = ("vllm", "curl")
"""Programs of others that take what a run leaves: docs/served_model.md."""
SHELL = ("source .venv/bin/activate", "pre-commit install", "tensorboard --logdir runs")
OWN_TASK = {"--task.type", "--task", "--resume", "cats.toml", "chats.toml"}
"""Words of a command that does not run on the embedded task as it is."""
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def blocks(path):
    return re.findall(r"^```console\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def typed(path):
    """The commands of a document: comments cut off, continued lines joined."""
    joined = "".join(blocks(path)).replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


DOCUMENTS = [path for path in documents() if path != ROOT / "deploy/README.md"]  # tests/unit/deploy has that one
COMMANDS = [
    pytest.param(words, id=f"{path.relative_to(ROOT)}: {' '.join(words)}")
    for words, path in {tuple(words): path for path in reversed(DOCUMENTS) for words in typed(path)}.items()
]
"""Each once, with the first document that has it."""


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """What a reader has by then: a run with a checkpoint, records, a recipe; by the names the documents use."""
    home = tmp_path_factory.mktemp("reader")
    run = home / "runs/arithmetic"
    (run / "checkpoints/step-40").mkdir(parents=True)
    save_tokenizer(run / "checkpoints/step-40")
    save_model(run / "checkpoints/step-40", tied=True)
    write_manifest(run / "checkpoints/step-40")
    small = {"task": {"train_examples": 64, "eval_examples": 8}}
    recorded = load_recipe("unisd_star", small).model_dump(mode="json", exclude_none=True)
    (run / "config.toml").write_text(tomli_w.dumps(recorded))
    (home / "my.toml").write_text('[task]\ntype = "arithmetic"\ntrain_examples = 64\neval_examples = 8\n')
    (recipe,) = re.findall(
        r"^```toml\n(.*?)^```", (ROOT / "docs/own_data.md").read_text(), flags=re.DOTALL | re.MULTILINE
    )
    data = ROOT / "examples/own_data"
    names = {
        "/shared/runs/arithmetic": str(run),
        "runs/arithmetic": str(run),
        "my.toml": str(home / "my.toml"),
        "chats.toml": str(home / "chats.toml"),
        "cats.toml": str(home / "cats.toml"),
        "train.jsonl": str(data / "train.jsonl"),
        "held_out.jsonl": str(data / "held_out.jsonl"),
        "backwards:load": "examples.backwards_task:load",
        "PATH_OR_HUB_NAME": "owner/name",
        "MODEL": str(run / "checkpoints/step-40"),
        "data/train-*.parquet": str(home / "train-*.parquet"),
        "data/test.parquet": str(home / "test.parquet"),
        "RUN_FOLDER": str(run),
    }
    for name in ("train.jsonl", "held_out.jsonl", "PATH_OR_HUB_NAME"):
        recipe = recipe.replace(f'"{name}"', f'"{names[name]}"')
    (home / "cats.toml").write_text(recipe)
    (home / "chats.toml").write_text(f'extends = "unisd_star"\n{recipe}')  # as `init` writes it
    table = pa.table({"question": ["1 + 1?"], "worked": ["Answer: 2"], "result": [2]})
    for name in ("train-0", "train-1", "test"):
        pq.write_table(table, home / f"{name}.parquet")
    return names


def filled_in(word, names):
    """A word with a name in it replaced; the longest names first."""
    for name in sorted(names, key=len, reverse=True):
        if re.search(rf"(?<![\w/.]){re.escape(name)}(?![\w.])", word):
            return re.sub(rf"(?<![\w/.]){re.escape(name)}(?![\w.])", names[name], word)
    return word


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_of_the_documents_is_accepted(words, reader):
    if words[:3] == ("ray", "job", "submit"):
        words = words[words.index("--") + 1 :]
    if " ".join(words) in SHELL or words[0] in ELSEWHERE or words[2:3] == ("vllm.entrypoints.openai.api_server",):
        return
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= TARGETS
        return
    if words[0] == "unisd-rl" and words[1] in ("ablate", "push"):
        words = ("python", "-m", f"unisd_rl.{words[1]}", *words[2:])
    if words[0] == "unisd-rl":
        assert main(list(words[1:])) == 0
        return
    assert words[0] == "python"
    if words[1] != "-m":
        assert (ROOT / words[1]).is_file()
        return
    program, arguments = words[2], [filled_in(word, reader) for word in words[3:] if word != "..."]
    package, _, name = program.partition(".")
    assert package == "unisd_rl"
    assert name in DRY + NEED_A_RUN
    if name in DRY:
        if "--help" in arguments:
            ended = command(program, *arguments)
        else:
            small = () if OWN_TASK & set(words) else SMALL
            ended = dry_run(program, *(word for word in arguments if word != "--dry-run"), *small)
        assert ended.code == 0, ended.errors
    else:
        ended = command(program, "--help")
        options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert ended.code == 0
        assert {option for option in options if option not in ended.output and option[2:] not in fields()} == set()


def test_the_documents_have_commands():
    assert len(typed(ROOT / "README.md")) >= 8
    assert len(typed(ROOT / "docs/quick_start.md")) >= 8
