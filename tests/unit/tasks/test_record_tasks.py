"""A user's own records: read as they are, or refused with the file, the line and the field."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unisd_rl.config.task import DatasetsTask, Fields, JsonlTask
from unisd_rl.errors import UserError
from unisd_rl.tasks.load import load_task
from unisd_rl.tasks.records import Records, check_files, records_of
from unisd_rl.types import Example, Message

RECORDS = [
    {"prompt": f"Question {number}?", "demonstration": f"Work {number}\nAnswer: {number}", "answer": str(number)}
    for number in range(6)
]


def write(path: Path, records: list, text: str = "") -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + text)
    return path


def task(path: Path, **settings) -> JsonlTask:
    return JsonlTask(type="jsonl", train=path, **{"eval_examples": 2, **settings})


def refusal(path: Path, **settings) -> str:
    """What the check says; loading must say the same."""
    with pytest.raises(UserError) as checked:
        check_files(task(path, **settings))
    with pytest.raises(UserError) as loaded:
        load_task(task(path, **settings))
    assert str(checked.value) == str(loaded.value)
    return str(checked.value)


def test_records_become_examples_and_the_last_ones_are_held_out(tmp_path):
    loaded = load_task(task(write(tmp_path / "a.jsonl", RECORDS)))
    assert loaded.train[1] == Example("1", "Question 1?", "Work 1\nAnswer: 1", "1")
    assert [example.id for example in loaded.train] == ["0", "1", "2", "3"]
    assert [example.id for example in loaded.evaluation] == ["4", "5"]
    assert loaded.student_messages(loaded.train[0]) == (Message("user", "Question 0?"),)


def test_held_out_records_of_their_own_are_capped_and_leave_training_whole(tmp_path):
    train, held_out = write(tmp_path / "a.jsonl", RECORDS), write(tmp_path / "b.jsonl", RECORDS[:3])
    loaded = load_task(task(train, evaluation=held_out))
    assert len(loaded.train) == 6
    assert len(loaded.evaluation) == 2


def test_fields_may_have_other_names_other_types_and_blank_lines_between(tmp_path):
    rows = [{"q": f"Q{n}", "w": f"W\n{40 + n}", "a": 40 + n, "key": f"k{n}", "x": [n, "any"][n % 2]} for n in range(4)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)))
    fields = Fields(prompt="q", demonstration="w", answer="a", id="key")
    check_files(task(path, fields=fields))
    assert load_task(task(path, fields=fields)).train[0] == Example("k0", "Q0", "W\n40", "40")


def test_text_that_looks_like_a_date_stays_text(tmp_path):
    dated = {"demonstration": "On 2019-05-04.\nAnswer: 2019-05-04", "answer": "2019-05-04"}
    path = write(tmp_path / "a.jsonl", [{**record, **dated} for record in RECORDS])
    assert load_task(task(path)).train[0].answer == "2019-05-04"


def test_a_missing_file_is_named(tmp_path):
    assert refusal(tmp_path / "none.jsonl").startswith(f"{tmp_path / 'none.jsonl'} is not a file")


def test_a_file_without_records_is_refused(tmp_path):
    assert "holds no records" in refusal(write(tmp_path / "a.jsonl", [], "\n\n"))


def test_a_missing_field_is_named_with_its_line_and_those_there_are(tmp_path):
    path = write(tmp_path / "a.jsonl", [*RECORDS[:2], {"prompt": "Q", "answer": "1"}])
    message = refusal(path)
    assert "line 3: no field 'demonstration'" in message
    assert "'prompt', 'answer'" in message


def test_the_line_number_counts_blank_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\n\n" + json.dumps({"prompt": "Q"}) + "\n")
    assert "line 3:" in refusal(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("prompt", 3), ("prompt", None), ("demonstration", ["a"]), ("answer", 2.5), ("answer", True), ("answer", None)],
)
def test_a_field_of_a_wrong_type_is_named_with_its_value(tmp_path, field, value):
    message = refusal(write(tmp_path / "a.jsonl", [*RECORDS, {**RECORDS[0], field: value}]))
    assert f"line 7: field {field!r} must be text" in message
    assert repr(value) in message


@pytest.mark.parametrize("field", ["prompt", "demonstration", "answer"])
def test_an_empty_field_is_refused(tmp_path, field):
    message = refusal(write(tmp_path / "a.jsonl", [{**RECORDS[0], field: " \n"}]))
    assert f"line 1: field {field!r} must be text" in message
    assert r"not empty, but it is ' \n'" in message


@pytest.mark.parametrize("line", ['{"prompt": ', "[1, 2]", '"text"', "\x00"])
def test_a_line_that_is_no_object_is_refused(tmp_path, line):
    assert "line 7: not a JSON object" in refusal(write(tmp_path / "a.jsonl", RECORDS, line))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    assert "line 1: not a JSON object" in refusal(tmp_path / "a.jsonl")


def test_an_id_that_occurs_twice_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", [{**record, "key": "same"} for record in RECORDS])
    assert "line 2: the id 'same' occurs twice" in refusal(path, fields=Fields(id="key"))


def test_the_held_out_file_is_checked_as_well(tmp_path):
    train, held_out = write(tmp_path / "a.jsonl", RECORDS), write(tmp_path / "b.jsonl", [{"prompt": "Q"}])
    assert f"{held_out}, line 1" in refusal(train, evaluation=held_out)


def test_holding_out_every_record_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"6 records.*eval_examples = 6"):
        load_task(task(write(tmp_path / "a.jsonl", RECORDS), eval_examples=6))


def test_the_check_imports_neither_torch_nor_datasets_nor_ray(tmp_path):
    path = write(tmp_path / "a.jsonl", RECORDS)
    code = (
        "import sys; from pathlib import Path; from unisd_rl.config.task import JsonlTask;"
        "from unisd_rl.tasks.records import check_files;"
        f"check_files(JsonlTask(type='jsonl', train=Path({str(path)!r})));"
        "print(sorted({'torch', 'datasets', 'ray', 'vllm', 'transformers', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_datasets_path_without_data_is_refused_with_the_path(tmp_path):
    with pytest.raises(UserError, match=r"task\.path = .*nothing-here"):
        load_task(DatasetsTask(type="datasets", path=str(tmp_path / "nothing-here")))


def test_an_id_that_occurs_twice_in_a_data_set_is_refused(tmp_path):
    write(tmp_path / "train.jsonl", [{**record, "key": "same"} for record in RECORDS])
    config = DatasetsTask(type="datasets", path=str(tmp_path), fields=Fields(id="key"), eval_examples=2)
    with pytest.raises(UserError, match=r"record 1: the id 'same' occurs twice"):
        load_task(config)


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("Answer: Paris", True),
        ("Thinking.\nAnswer:  PARIS \nHope it helps", True),
        ("Answer: London\nanswer: Paris", True),
        ("Answer: Paris\nAnswer: London", False),
        ("Answer: Because Paris", False),
        ("It is\n\nparis\n\n", True),
        ("Paris\nor not", False),
        ("Answer:", False),
        ("", False),
    ],
)
def test_what_is_stated_last_is_compared_without_case_and_white_space(completion, right):
    assert Records([], []).grade(completion, Example("0", "Capital?", "d", " Paris")) is right


def test_an_answer_of_several_lines_can_be_stated():
    example = Example("0", "Code?", "d", "a = 1\nb = 2")
    assert Records([], []).grade("Answer:\na = 1\nb = 2\n", example)
    assert not Records([], []).grade("Answer:\na = 1\n", example)


OTHER = Example("other", "Capital of Italy?", "It is Rome.\nAnswer: Rome", "Rome")
CALL = '[{"name": "find", "arguments": {"kind": "cat"}}]'
OWN_MISTAKES = {
    "a number, and all that follows from it": (
        Example("n", "3 cats?", "3 * 4 = 12.\nAnswer: 12", "12"),
        r"3 \* 4 = (?!12)\d+\.\nAnswer: (?!12)\d+",
    ),
    "a number that the work does not name": (
        Example("n", "3 cats?", "A cat has 4 legs.\n#### 12", "12"),
        r"A cat has (?!4)\d legs\.\n#### (?!12)\d+",
    ),
    "an option": (
        Example("o", "Louvre?\nA. Rome\nB. Paris", "Paris has it.\nAnswer: B", "B"),
        r"Rome has it\.\nAnswer: A",
    ),
    "an option that the work does not name": (
        Example("o", "Louvre?\nA. Rome\nB. Paris", "It is on the Seine.\nThe answer is \\\\(B\\\\).", "B"),
        r"It is not on the Seine\.\nThe answer is \\\\\(A\\\\\)\.",
    ),
    "another answer": (
        Example("t", "Capital of France?", "It is Paris.\nAnswer: Paris", "Paris"),
        r"It is Rome\.\nAnswer: Rome",
    ),
    "a tool call": (
        Example("c", "Cats?", 'I look.\nAnswer: [{"name": "find", "arguments": {"kind": "cat"}}]', CALL),
        r'I look\.\nAnswer: (?!\[\{"name": "find", "arguments": \{"kind": "cat"\}\}\]\Z)\[\{"name": "find", .*\]',
    ),
    "a program": (
        Example("p", "Add.", "1. So:\n   ```python\n   def f(x):\n       return x + 1\n   ```", "x"),
        r"1\. So:\n   ```python\n   def f\(x\):\n       return x(?! \+ 1\n).*\n   ```",
    ),
}


@pytest.mark.parametrize(("example", "mistaken"), OWN_MISTAKES.values(), ids=OWN_MISTAKES)
def test_a_wrong_demonstration_is_the_problems_own_with_a_mistake_before_any_other_problems_solution(example, mistaken):
    task = Records([example, OTHER], [])
    first, *rest = task.wrong_demonstrations(example, seed=1)
    assert re.fullmatch(mistaken, first), first
    assert not task.grade(first, example)
    others = [text for text in rest if text == OTHER.demonstration]
    assert rest[len(rest) - len(others) :] == others  # the last resort


def test_wrong_demonstrations_are_those_of_problems_with_another_answer_where_the_own_one_does_not_name_its_answer():
    examples = [Example(str(n), f"Q{n}", f"work {n}", "aAb"[n % 3]) for n in range(30)]
    candidates = list(Records(examples, []).wrong_demonstrations(examples[0], seed=1))
    assert candidates
    assert {int(text.split()[1]) % 3 for text in candidates} == {2}
    assert candidates == list(Records(examples, []).wrong_demonstrations(examples[0], seed=1))


def test_an_empty_held_out_split_is_refused():
    example = Example("0", "Question?", "Work", "0")
    with pytest.raises(UserError, match="no held-out records"):
        records_of([example], [], 5, "somewhere")
