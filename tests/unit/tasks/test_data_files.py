"""Files and folders of records: read as they stand, whatever they hold, or refused with the file, row and field."""

import json

import pytest

from unisd_rl.config.task import DatasetsTask, Fields, JsonlTask
from unisd_rl.errors import UserError
from unisd_rl.tasks.load import check_task, load_task
from unisd_rl.tasks.source_records import print_once

ROWS = [{"prompt": f"Q{n}", "demonstration": f"Work.\nAnswer: {n}", "answer": str(n)} for n in range(10)]
LABELS = ("yes", "no")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def task(path, **settings) -> DatasetsTask:
    return DatasetsTask(type="datasets", path=str(path), **settings)


def refusal(config) -> str:
    with pytest.raises(UserError) as error:
        load_task(config)
    assert "\n" not in str(error.value)
    return str(error.value)


def quoted(text: str) -> str:
    doubled = str(text).replace('"', '""')
    return f'"{doubled}"'


def write_csv(path, rows, ends="\r\n", mark="", comma=","):
    lines = [list(rows[0]), *(row.values() for row in rows)]
    text = ends.join(comma.join(map(quoted, line)) for line in lines)
    path.write_bytes((mark + text + ends).encode())
    return path


def write_parquet(path, columns, labels=()):
    import datasets

    rows = datasets.Dataset.from_dict(columns)
    for column in labels:
        rows = rows.cast_column(column, datasets.ClassLabel(names=list(LABELS)))
    rows.to_parquet(str(path))
    return path


def write_json(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def columns_of(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


WRITERS = {
    "rows.jsonl": write_json,
    "rows.json": lambda path, rows: path.write_text(json.dumps(rows)) and path,
    "rows.csv": write_csv,
    "ROWS.TSV": lambda path, rows: write_csv(path, rows, comma="\t"),
    "rows.parquet": lambda path, rows: write_parquet(path, columns_of(rows)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_of_any_kind_may_be_named(tmp_path, name):
    path = WRITERS[name](tmp_path / name, ROWS)
    loaded = load_task(task(path, eval_examples=4))
    assert [example.question for example in loaded.train] == [f"Q{n}" for n in range(6)]
    assert [example.id for example in loaded.evaluation] == ["6", "7", "8", "9"]
    assert loaded.train[3].demonstration == "Work.\nAnswer: 3"
    check_task(task(path))


def test_several_files_may_be_named_by_a_pattern_and_held_out_ones_beside_them(tmp_path):
    write_json(tmp_path / "train-1.jsonl", ROWS[:3])
    write_csv(tmp_path / "train-2.csv", ROWS[3:6])
    held_out = write_parquet(tmp_path / "test.parquet", columns_of(ROWS[6:]))
    loaded = load_task(task(tmp_path / "train-*", evaluation=str(held_out)))
    assert [example.id for example in loaded.train] == [str(n) for n in range(6)]
    assert [example.question for example in loaded.train] == [f"Q{n}" for n in range(6)]
    assert [example.question for example in loaded.evaluation] == ["Q6", "Q7", "Q8", "Q9"]


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_json(tmp_path / "rows.jsonl", ROWS)
    assert len(load_task(task("~/rows.jsonl", eval_examples=4)).train) == 6
    assert len(load_task(task("~/*.jsonl", eval_examples=4)).train) == 6


@pytest.mark.parametrize("name", ["none.parquet", "none.jsonl", "none-*.csv", "~/none.json"])
def test_files_that_are_not_there_are_refused(tmp_path, name):
    assert "there is no such file; name one" in refusal(task(name if "~" in name else tmp_path / name))


def test_a_file_of_another_kind_is_refused_with_those_that_are_read(tmp_path):
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    assert "rows.xlsx is no file of records; their names end in .jsonl, .json, .csv, .tsv, .parquet" in refusal(
        task(tmp_path / "*")
    )


@pytest.mark.parametrize("name", ["json", "csv", "parquet", "text", "imagefolder"])
def test_the_bare_name_of_a_format_reads_no_file_below_the_working_directory(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "private.json", ROWS)
    write_csv(tmp_path / "private.csv", ROWS)
    said = refusal(task(name))
    assert f"task.path = {name!r} is the name of a file format: name files, as data/*.{name}" in said


def test_no_path_at_all_is_refused():
    with pytest.raises(ValueError, match="at least 1 character"):
        task("")


@pytest.mark.parametrize("setting", [{"name": "x"}, {"eval_split": "test"}, {"train_split": "all"}])
def test_splits_of_files_are_refused(tmp_path, setting):
    path = write_json(tmp_path / "rows.jsonl", ROWS)
    (field,) = setting
    assert f"task.{field} = {setting[field]!r}: task.path = {str(path)!r} names files" in refusal(task(path, **setting))


def test_held_out_files_of_a_folder_are_refused(tmp_path):
    write_json(tmp_path / "rows.jsonl", ROWS)
    assert "name the held-out split as task.eval_split" in refusal(task(tmp_path, evaluation="x.jsonl"))


@pytest.mark.parametrize("name", [*WRITERS, "folder"])
def test_a_missing_field_is_told_with_the_fields_there_are(tmp_path, name):
    """Also those that are not asked for, and where none of those asked for is there."""
    rows = [{"question": "Q", "solution": f"Answer: {n}", "final": str(n)} for n in range(10)]
    path = WRITERS[name if name != "folder" else "rows.parquet"](tmp_path / name.replace("folder", "a.parquet"), rows)
    path = tmp_path if name == "folder" else path
    fields = {"prompt": "question", "demonstration": "solutin", "answer": "final"}
    for given in (Fields(**fields), Fields(prompt="a", demonstration="b", answer="c")):
        said = refusal(task(path, fields=given))
        missing = given.demonstration if given.prompt == "question" else "a"
        assert f"no field {missing!r}; it has 'question', 'solution', 'final'" in said
        assert "(see task.fields)" in said
    right = Fields(prompt="question", demonstration="solution", answer="final")
    assert len(load_task(task(path, fields=right)).train) == 8


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_class_label_is_read_by_its_name(tmp_path, where):
    columns = {
        "prompt": [f"Q{n}?" for n in range(10)],
        "demonstration": [f"Answer: {LABELS[n % 2]}" for n in range(10)],
        "answer": [n % 2 for n in range(10)],
        "more": [[n] for n in range(10)],
    }
    path = write_parquet(tmp_path / "rows.parquet", columns, labels=["answer"])
    loaded = load_task(task(path if where == "file" else tmp_path))
    assert [example.answer for example in loaded.train] == [LABELS[n % 2] for n in range(8)]


def test_a_label_that_the_source_does_not_tell_is_refused(tmp_path):
    columns = {"prompt": ["Q", "R"], "demonstration": ["Answer: yes", "?"], "answer": [0, -1]}
    path = write_parquet(tmp_path / "rows.parquet", columns, labels=["answer"])
    assert "record 1: field 'answer' must be text or a whole number, not empty, but it is None" in refusal(task(path))


def test_cells_of_a_csv_file_stay_the_text_they_are(tmp_path):
    answers = ["007", "2.50", "True", "2019-05-04", "N/A", "null", "1e3", "nan", "-0", "£5"]
    rows = [{"prompt": "Q", "demonstration": f"Answer: {answer}", "answer": answer} for answer in answers]
    loaded = load_task(task(write_csv(tmp_path / "a.csv", rows), eval_examples=1))
    assert [example.answer for example in (*loaded.train, *loaded.evaluation)] == answers


def test_a_byte_order_mark_and_either_line_end_are_no_part_of_a_record(tmp_path):
    lines = "\r\n".join(map(json.dumps, ROWS))
    for name, content in {
        "a.jsonl": b"\xef\xbb\xbf" + lines.encode(),
        "b.jsonl": b"\xef\xbb\xbf\r\n" + lines.encode() + b"\r\n\r\n",
        "c.json": b"\xef\xbb\xbf " + json.dumps(ROWS).encode(),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert load_task(task(tmp_path / name, eval_examples=4)).train[0].question == "Q0"
        assert len(load_task(JsonlTask(type="jsonl", train=tmp_path / name, eval_examples=4)).train) == 6
    for ends in ("\n", "\r\n"):
        path = write_csv(tmp_path / "a.csv", ROWS, ends, mark="\ufeff")
        assert load_task(task(path, eval_examples=4)).train[0].demonstration == "Work.\nAnswer: 0"


@pytest.mark.parametrize("name", WRITERS)
def test_very_long_fields_are_read_whole(tmp_path, name):
    long = "word " * 200_000
    rows = [{**row, "prompt": long + row["prompt"]} for row in ROWS]
    loaded = load_task(task(WRITERS[name](tmp_path / name, rows), eval_examples=4))
    assert loaded.train[5].question == long + "Q5"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet"])
@pytest.mark.parametrize("value", [None, 3.5, True, ["a"], "  "])
def test_a_value_of_another_type_is_refused_with_the_record(tmp_path, name, value):
    rows = [{**ROWS[0], "answer": value}]
    said = refusal(task(WRITERS[name](tmp_path / name, rows)))
    assert "field 'answer' must be text or a whole number, not empty, but it is" in said
    assert "line 1:" in said or "record 0:" in said


def test_half_a_surrogate_pair_is_refused_with_its_line(tmp_path):
    for name, line in {"a.jsonl": "line 11", "a.json": "record 10"}.items():
        path = WRITERS["rows" + name[1:]](tmp_path / name, [*ROWS, {**ROWS[0], "prompt": "cut emoji \ud83d"}])
        for config in (task(path), JsonlTask(type="jsonl", train=path)):
            assert rf"{line}: field 'prompt' holds '\ud83d', half of a surrogate pair" in refusal(config)
            with pytest.raises(UserError, match="surrogate"):
                check_task(config)
    whole = write_json(tmp_path / "whole.jsonl", [{**row, "prompt": f"{row['prompt']} \U0001f600"} for row in ROWS])
    assert load_task(task(whole)).train[0].question == "Q0 \U0001f600"


def test_a_field_or_column_that_occurs_twice_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0])[:-1] + ', "answer": "1"}')
    assert "a.jsonl, line 1: the field 'answer' occurs twice" in refusal(task(tmp_path / "a.jsonl"))
    header, row = list(ROWS[0]), list(ROWS[0].values())
    lines = [[*header, "answer"], [*row, "1"]]
    (tmp_path / "a.csv").write_text("\n".join(",".join(map(quoted, line)) for line in lines))
    assert "a.csv: the field 'answer' occurs twice" in refusal(task(tmp_path / "a.csv"))
    table = pa.Table.from_arrays([pa.array([text]) for text in [*row, "1"]], names=[*header, "answer"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert "a.parquet: the field 'answer' occurs twice" in refusal(task(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    "name,content,said",
    [
        ("a.jsonl", b"", "holds no records"),
        ("a.json", b"\xef\xbb\xbf", "holds no records"),
        ("a.json", b"[]", "holds no records"),
        ("a.csv", b"", "holds no records"),
        ("a.csv", b"prompt,demonstration,answer\r\n", "has 0 records"),
        ("a.csv", b"prompt,demonstration,answer\nQ,W\n", "row 1: it has 2 cells, but the header has 3"),
        ("a.csv", b"prompt,demonstration,answer\nQ,W,1,2\n", "row 1: it has 4 cells, but the header has 3"),
        ("a.csv", b'prompt,demonstration,answer\nQ,"W,1\n', "cannot be read as CSV: unexpected end of data"),
        (
            "a.csv",
            b"prompt,demonstration,answer\n\xe4,W,1",
            "cannot be read as CSV: 'utf-8' codec can't decode",
        ),
        ("a.jsonl", b"[" * 100_000, "not a JSON array"),
        ("a.jsonl", b'{"prompt": ' + b"[" * 100_000, "line 1: not a JSON object"),
        ("a.jsonl", b'{"prompt": ' + b"1" * 10_000 + b"}", "line 1: not a JSON object"),
        ("a.parquet", b"", "cannot be read as Parquet"),
        ("a.parquet", b"PAR1 and more that is none", "cannot be read as Parquet"),
    ],
)
def test_a_broken_or_empty_file_is_refused(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    assert said in refusal(task(tmp_path / name))


def test_a_parquet_file_without_rows_is_refused(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", {name: [] for name in ROWS[0]})
    assert "has 0 records" in refusal(task(path))


def test_a_folder_with_a_loading_script_is_refused(tmp_path):
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text("raise SystemExit('a script of the data set was run')\n")
    write_json(folder / "train.jsonl", ROWS)
    assert "Dataset scripts are no longer supported, but found scripted.py" in refusal(task(folder))


@pytest.mark.parametrize(
    "content,said",
    [
        (b"", "holds no records"),
        (b'{"prompt": "a"}\n[1]\n', "JSON parse error"),
        (b'{"prompt": "a \\ud83d"}\n', "surrogate pair in string is invalid"),
    ],
)
def test_a_folder_that_datasets_cannot_read_is_refused_with_the_cause(tmp_path, content, said):
    (tmp_path / "train.jsonl").write_bytes(content)
    assert said in refusal(task(tmp_path))


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    write_json(tmp_path / "train.jsonl", ROWS)
    assert "Should be one of ['train']" in refusal(task(tmp_path, eval_split="validation"))


@pytest.mark.parametrize("size,held_out", [(2, 1), (5, 1), (10, 2), (60, 12), (2500, 500), (4000, 500)])
def test_small_data_holds_out_a_fifth_by_default_and_says_so(tmp_path, capsys, size, held_out):
    print_once.cache_clear()
    rows = [{"prompt": f"Q{n}", "demonstration": f"Answer: {n}", "answer": n} for n in range(size)]
    path = write_json(tmp_path / "a.jsonl", rows)
    for config in (task(path), JsonlTask(type="jsonl", train=path)):
        loaded = load_task(config)
        assert (len(loaded.train), len(loaded.evaluation)) == (size - held_out, held_out)
    assert f"the last {held_out} of {size} records are held out (task.eval_examples" in capsys.readouterr().err


def test_held_out_records_of_ones_own_are_evaluated_as_many_as_there_are(tmp_path, capsys):
    print_once.cache_clear()
    path, few = write_json(tmp_path / "a.jsonl", ROWS), write_json(tmp_path / "b.jsonl", ROWS[:3])
    assert len(load_task(JsonlTask(type="jsonl", train=path, evaluation=few)).evaluation) == 3
    many = write_json(tmp_path / "c.jsonl", ROWS * 60)
    assert len(load_task(task(path, evaluation=str(many))).evaluation) == 500
    assert "the first 500 of 600 held-out records are evaluated" in capsys.readouterr().err


def test_one_record_cannot_be_both_trained_on_and_held_out(tmp_path):
    path = write_json(tmp_path / "a.jsonl", ROWS[:1])
    assert "has 1 records and the last task.eval_examples = 1 would be held out" in refusal(task(path))


def test_several_splits_and_parts_of_one_are_trained_on_together(tmp_path):
    write_json(tmp_path / "train.jsonl", ROWS[:4])
    write_json(tmp_path / "validation.jsonl", ROWS[4:6])
    write_json(tmp_path / "test.jsonl", ROWS[6:])
    loaded = load_task(task(tmp_path, train_split="train[:3]+validation", eval_split="test"))
    assert [example.question for example in loaded.train] == ["Q0", "Q1", "Q2", "Q4", "Q5"]
    assert [example.question for example in loaded.evaluation] == ["Q6", "Q7", "Q8", "Q9"]
