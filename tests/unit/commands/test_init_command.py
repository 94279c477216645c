"""`unisd-rl init DATA`: the recipe that it writes is one that a run takes, for the very records."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unisd_rl.__main__ import main
from unisd_rl.config.load import load_recipe
from unisd_rl.errors import UserError
from unisd_rl.run import checked_request
from unisd_rl.tasks.field_names import guessed_fields

COUNT = 10
ROWS = [
    {"Question": f'What is "{n}" + 1?', "solution": f"One more.\nAnswer: {n + 1}", "result": str(n + 1)}
    for n in range(COUNT)
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_recipe_of_json_lines_is_taken_by_a_run_and_names_their_fields(here, capsys):
    write(here / "sums.jsonl")
    assert main(["init", "sums.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "8 problems to train on, 2 held out" in said
    assert "look first: python -m unisd_rl.run sums.toml --model.path PATH_OR_HUB_NAME --dry-run" in said
    config = checked_request(["sums.toml", "--model.path", "owner/name"]).config
    assert config.run.name == "sums"
    assert config.objective == load_recipe("unisd_star").objective
    assert config.task.model_dump(include={"type", "fields"}) == {
        "type": "jsonl",
        "fields": {"prompt": "Question", "demonstration": "solution", "answer": "result", "id": None},
    }


def test_every_line_that_is_commented_out_is_one_that_a_run_takes_too(here):
    """But for those that name what only a person knows."""
    write(here / "sums.jsonl")
    main(["init", "sums.jsonl"])
    text = (here / "sums.toml").read_text()
    head, _, body = text.partition("extends")
    assert all(line.startswith("#") for line in head.splitlines() if line)
    switched_on = [
        line.removeprefix("# ")
        for line in f"extends{body}".splitlines()
        if "..." not in line and "held_out.jsonl" not in line
    ]
    (here / "all.toml").write_text("\n".join(switched_on))
    config = load_recipe("all.toml")
    assert (config.model.path, config.model.lora.rank, config.run.epochs) == ("PATH_OR_HUB_NAME", 64, 1)
    assert (config.learner.batch_size, config.learner.learning_rate, config.evaluation.every) == (16, 1e-5, 20)


def test_files_by_a_pattern_and_held_out_ones_and_a_model_are_written_down(here, capsys):
    for name in ("train-0", "train-1", "test"):
        pq.write_table(pa.Table.from_pylist(ROWS), here / f"{name}.parquet")
    model = here / "a model"
    model.mkdir()
    words = ["train-*.parquet", "--held-out", "test.parquet", "--model", str(model), "--out", "my.toml"]
    assert main(["init", *words]) == 0
    assert "20 problems to train on, 10 held out" in capsys.readouterr().out
    config = checked_request(["my.toml"]).config
    assert (config.task.type, config.task.path, config.task.evaluation) == (
        "datasets",
        "train-*.parquet",
        "test.parquet",
    )
    assert config.model.path == str(model)


def test_a_person_names_the_fields_that_are_called_otherwise(here, capsys):
    write(here / "odd.jsonl", [{"q": row["Question"], "how": row["solution"], "x": row["result"]} for row in ROWS])
    assert main(["init", "odd.jsonl"]) == 2
    assert "its fields are q, how, x: name the right one with --prompt FIELD" in capsys.readouterr().err
    assert main(["init", "odd.jsonl", "--prompt", "q", "--demonstration", "how", "--answer", "x"]) == 0
    assert checked_request(["odd.toml", "--model.path", "a/b"]).config.task.fields.answer == "x"


def test_data_that_a_run_would_refuse_is_refused_in_the_same_words(here, capsys):
    write(here / "bad.jsonl", [*ROWS, {"Question": "?", "solution": "Answer: 1"}])
    assert main(["init", "bad.jsonl"]) == 2
    assert "line 11: no field 'result'" in capsys.readouterr().err
    assert main(["init", "none.jsonl"]) == 2
    assert "DATA = 'none.jsonl': there is no such file" in capsys.readouterr().err
    assert not (here / "bad.toml").exists()


def test_a_recipe_that_is_there_is_never_overwritten(here, capsys):
    write(here / "sums.jsonl")
    (here / "sums.toml").write_text("mine")
    assert main(["init", "sums.jsonl"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (here / "sums.toml").read_text() == "mine"
    assert main(["init", "sums.jsonl", "--out", "nowhere/sums.toml"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_likeliest_name_wins_and_no_field_is_two_things():
    names = ["input", "question", "output", "answer"]
    fields = guessed_fields(names, {}, "data")
    assert (fields.prompt, fields.demonstration, fields.answer) == ("question", "output", "answer")
    with pytest.raises(UserError, match="a worked solution usually is"):
        guessed_fields(["question", "answer"], {}, "data")
    fields = guessed_fields(["question", "answer", "label"], {"demonstration": "answer"}, "data")
    assert (fields.demonstration, fields.answer) == ("answer", "label")
