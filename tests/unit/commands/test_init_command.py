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
from unisd_rl.tasks.source_records import SourceRecord

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
        "fields": {
            "prompt": "Question",
            "demonstration": "solution",
            "answer": "result",
            "messages": None,
            "tools": None,
            "id": None,
        },
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


def test_a_run_is_called_as_the_recipe_and_that_as_the_split_and_not_as_its_shard(here):
    for shard in (0, 1):
        pq.write_table(pa.Table.from_pylist(ROWS), here / f"sums-train-0000{shard}-of-00002.parquet")
    assert main(["init", "sums-train-*.parquet"]) == 0
    assert checked_request(["sums-train.toml", "--model.path", "a/b"]).config.run.name == "sums-train"
    assert main(["init", "sums-train-00000-of-00002.parquet", "--out", "mine.toml"]) == 0
    assert checked_request(["mine.toml", "--model.path", "a/b"]).config.run.name == "mine"


@pytest.mark.parametrize(("thought", "graded"), [("<think>One more.</think>\n", False), ("", True)])
def test_what_worked_solutions_think_is_not_graded(here, thought, graded):
    write(here / "rows.jsonl", [{**row, "solution": f"{thought}{row['solution']}"} for row in ROWS])
    assert main(["init", "rows.jsonl"]) == 0
    assert checked_request(["rows.toml", "--model.path", "a/b"]).config.task.grader.grade_thinking is graded


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


def fields_of(values, **given):
    return guessed_fields(SourceRecord("data", values), given)


def test_the_likeliest_name_that_holds_something_wins_and_no_field_is_two_things():
    fields = fields_of(dict.fromkeys(("input", "question", "output", "answer"), "x"))
    assert (fields.prompt, fields.demonstration, fields.answer) == ("question", "output", "answer")
    assert fields_of({"question": "", "input": "x", "output": "x", "answer": "x"}).prompt == "input"
    with pytest.raises(UserError, match="a worked solution usually is"):
        fields_of({"question": "x", "answer": "x"})
    fields = fields_of(dict.fromkeys(("question", "answer", "label"), "x"), demonstration="answer")
    assert (fields.demonstration, fields.answer) == ("answer", "label")


ASK, SAY = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "Answer: 4"}


def test_a_chat_is_told_from_a_prompt_and_needs_a_solution_only_where_it_ends_without_one():
    fields = fields_of({"conversations": [ASK, SAY], "tools": [{"name": "f"}], "question": "x"})
    assert fields.model_dump(exclude_none=True) == {"messages": "conversations", "tools": "tools"}
    fields = fields_of({"messages": [ASK], "solution": "Answer: 4", "answer": "4"})
    assert (fields.messages, fields.demonstration, fields.answer) == ("messages", "solution", "answer")
    with pytest.raises(UserError, match="a worked solution usually is"):
        fields_of({"messages": [ASK]})
    assert fields_of(dict.fromkeys(("prompt", "solution", "answer", "chat"), "x"), prompt="prompt").messages is None


def test_the_recipe_of_chats_is_taken_by_a_run(here, capsys):
    system = {"role": "system", "content": "Be brief."}
    chats = [[system, {**ASK, "content": f"{n} + 0?"}, {**SAY, "content": f"It is {n}."}] for n in range(COUNT)]
    write(here / "chats.jsonl", [{"messages": chat} for chat in chats])
    assert main(["init", "chats.jsonl"]) == 0
    assert "worked solution = the last turn of messages, answer = what the worked solution" in capsys.readouterr().out
    config = checked_request(["chats.toml", "--model.path", "owner/name"]).config
    assert config.task.fields.model_dump(exclude_none=True) == {"messages": "messages"}


GRADERS = {
    "stated": ("So.\nAnswer: 4", "4", "Q"),
    "number": ("It is 4, or four.", "4", "Q"),
    "choice": ("The answer is (B).", "B. four", "Q\nA. three\nB. four"),
    "json": ('I call:\n{"name": "f"}', '{"name":"f"}', "Q"),
}


@pytest.mark.parametrize("kind", GRADERS)
def test_the_recipe_has_the_grader_that_finds_the_worked_solutions_right(here, kind):
    solution, answer, question = GRADERS[kind]
    write(here / "rows.jsonl", [{"prompt": question, "solution": solution, "answer": answer}] * COUNT)
    assert main(["init", "rows.jsonl"]) == 0
    assert checked_request(["rows.toml", "--model.path", "a/b"]).config.task.grader.type == kind
    assert f'type = "{kind}"  # one of stated, exact, number' in (here / "rows.toml").read_text()
