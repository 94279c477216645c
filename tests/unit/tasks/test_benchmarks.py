"""The published benchmarks, on real records: read in their source's form, put as prompts, gold answers graded right."""

import csv
import json
import subprocess
import sys

import pytest

from tests.fakes.shared_data import shared
from unisd_rl.config import Config
from unisd_rl.config.model import ModelConfig
from unisd_rl.config.objective import JensenShannon, ObjectiveConfig
from unisd_rl.config.task import CosETask, GPQATask, HumanEvalTask, MBPPTask, ScienceQATask, ToolAlpacaTask
from unisd_rl.errors import UserError
from unisd_rl.run import check_without_imports
from unisd_rl.tasks.benchmark_data import from_file, print_once, size_warnings
from unisd_rl.tasks.load import check_task, load_task
from unisd_rl.tasks.mbpp import to_example
from unisd_rl.tasks.multiple_choice import options_of
from unisd_rl.tasks.programs import Reference

pytestmark = pytest.mark.exhaustive

CONFIGS = {
    "scienceqa": lambda: ScienceQATask(type="scienceqa", data=shared("scienceqa.jsonl")),
    "cos_e": lambda: CosETask(type="cos_e", data=shared("cos_e.jsonl")),
    "cos_e source": lambda: CosETask(type="cos_e", data=shared("cos_e_source")),
    "toolalpaca": lambda: ToolAlpacaTask(type="toolalpaca", data=shared("toolalpaca.jsonl")),
    "toolalpaca real": lambda: ToolAlpacaTask(type="toolalpaca", data=shared("toolalpaca.jsonl"), evaluation="real"),
    "mbpp": lambda: MBPPTask(type="mbpp", data=shared("mbpp_sanitized.jsonl")),
    "mbpp full": lambda: MBPPTask(type="mbpp", data=shared("mbpp.jsonl"), variant="full"),
    "humaneval": lambda: HumanEvalTask(type="humaneval", data=shared("humaneval.jsonl")),
}
SIZES = {
    "scienceqa": (300, 300),
    "cos_e": (300, 300),
    "cos_e source": (300, 300),
    "toolalpaca": (4, 68),
    "toolalpaca real": (4, 41),
    "mbpp": (120, 257),
    "mbpp full": (374, 500),
    "humaneval": (0, 164),
}
WITHOUT_PROGRAMS = ("scienceqa", "cos_e", "cos_e source", "toolalpaca", "toolalpaca real")


@pytest.fixture(scope="module", params=CONFIGS)
def named(request):
    return request.param, load_task(CONFIGS[request.param]())


def examples(task):
    return [*task.train, *task.evaluation]


def test_all_records_are_read_into_the_papers_splits(named):
    name, task = named
    assert (len(task.train), len(task.evaluation)) == SIZES[name]
    assert len({example.id for example in examples(task)}) == sum(SIZES[name])


def test_no_question_is_in_both_splits(named):
    _, task = named
    assert {e.question for e in task.train}.isdisjoint(e.question for e in task.evaluation)


def test_the_student_reads_the_question_and_not_the_demonstration(named):
    _, task = named
    for example in examples(task):
        *_, last = task.student_messages(example)
        assert last.role == "user"
        assert example.question in last.content
        assert example.demonstration not in last.content


@pytest.mark.parametrize("name", WITHOUT_PROGRAMS)
def test_every_gold_answer_is_right_and_every_wrong_one_wrong(name):
    task = load_task(CONFIGS[name]())
    for example in examples(task):
        assert task.grade(example.demonstration, example)
        wrong = list(task.wrong_demonstrations(example, seed=0))
        assert wrong
        assert not any(task.grade(text, example) for text in wrong)


@pytest.mark.parametrize("name", CONFIGS)
def test_of_every_one_what_is_thought_of_and_not_said_is_wrong_where_thinking_is_cut(name):
    config = CONFIGS[name]().model_copy(update={"grade_thinking": False})
    task = load_task(config, for_training=False)
    example = task.evaluation[0]
    assert not task.grade(f"<think>{example.demonstration}", example)


def test_the_join_of_the_two_sources_of_cos_e_is_the_published_data():
    published, joined = (load_task(CONFIGS[name]()) for name in ("cos_e", "cos_e source"))
    for one, other in zip(examples(published), examples(joined), strict=True):
        assert one.id == other.id
        assert sorted(options_of(one).values()) == sorted(options_of(other).values())
        assert one.answer[3:] == other.answer[3:]
        assert one.demonstration.split("\n")[:-1] == other.demonstration.split("\n")[:-1]


def test_scienceqa_keeps_hint_and_lecture_and_drops_pictures(tmp_path):
    record = json.loads(shared("scienceqa.jsonl").read_text().split("\n", 1)[0])
    hint, lecture = "The passage in question.", "A lecture on the matter."
    records = [
        {**record, "pid": "1", "hint": hint, "lecture": lecture, "split": "train"},
        {**record, "pid": "2", "image": "image.png", "split": "train"},
        {**record, "pid": "3", "split": "test"},
        {**record, "pid": "4", "split": "val"},
    ]
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    task = load_task(ScienceQATask(type="scienceqa", data=path))
    assert [example.id for example in examples(task)] == ["1", "3"]
    assert hint in task.train[0].question
    assert lecture in task.train[0].question
    without = load_task(ScienceQATask(type="scienceqa", data=path, lecture=False))
    assert hint in without.train[0].question
    assert lecture not in without.train[0].question


def test_scienceqa_is_read_from_its_two_source_files(tmp_path):
    lines = map(json.loads, shared("scienceqa.jsonl").read_text().splitlines())
    records = {record["pid"]: record for record in lines}
    splits = {"train": [], "val": [], "test": []}
    for pid, record in records.items():
        splits[record["split"]].append(pid)
    bare = {pid: {k: v for k, v in record.items() if k not in ("pid", "split")} for pid, record in records.items()}
    (tmp_path / "problems.json").write_text(json.dumps(bare))
    (tmp_path / "pid_splits.json").write_text(json.dumps(splits))
    config = ScienceQATask(type="scienceqa", data=tmp_path)
    own, lines = load_task(config), load_task(CONFIGS["scienceqa"]())
    # The source files name no problem in a record; ours go by position, so that only the order of options differs.
    assert [len(own.train), len(own.evaluation)] == [300, 300]
    assert [e.answer[3:] for e in examples(own)] == [e.answer[3:] for e in examples(lines)]


GPQA_ROWS = [
    {
        "Question": f"What is {n} squared,\nin whole numbers?",
        "Correct Answer": f"{n * n}\n",
        "Incorrect Answer 1": f"{n * n + 1}",
        "Incorrect Answer 2": f"{n * n + 2}",
        "Incorrect Answer 3": f"{n * n + 3}",
        "Explanation": f"{n} times {n}.",
        "Subdomain": "made up",
        "High-level domain": "made up",
        "Record ID": f"rec{n}",
        "Pre-Revision Question": "ignored",
    }
    for n in range(2, 9)
]


def gpqa(path, rows=GPQA_ROWS, drop=()):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name not in drop], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return GPQATask(type="gpqa", data=path)


def test_gpqa_is_read_from_a_users_file(tmp_path):
    task = load_task(gpqa(tmp_path / "mine.csv"))
    assert task.train == []
    assert [example.id for example in task.evaluation] == [f"rec{n}" for n in range(2, 9)]
    for n, example in enumerate(task.evaluation, start=2):
        assert f"What is {n} squared,\nin whole numbers?" in example.question
        assert example.answer[3:] == str(n * n)
        assert len(options_of(example)) == 4
        assert task.grade(example.demonstration, example)
        assert not any(task.grade(text, example) for text in task.wrong_demonstrations(example, 0))
    assert len({example.answer[0] for example in task.evaluation}) > 1


def refusal(config) -> str:
    with pytest.raises(UserError) as refused:
        check_task(config)
    return str(refused.value)


def test_gpqa_without_a_file_a_column_or_a_cell_is_refused(tmp_path):
    assert "task.data is not set" in refusal(GPQATask(type="gpqa"))
    assert "is not a file" in refusal(GPQATask(type="gpqa", data=tmp_path / "none.csv"))
    assert "no field 'Explanation'" in refusal(gpqa(tmp_path / "a.csv", drop=["Explanation"]))
    rows = [*GPQA_ROWS, {**GPQA_ROWS[0], "Record ID": "x", "Question": ""}]
    assert "row 8: field 'Question' must be text that is not empty" in refusal(gpqa(tmp_path / "b.csv", rows))
    assert "the id 'rec2' occurs twice" in refusal(gpqa(tmp_path / "c.csv", GPQA_ROWS + GPQA_ROWS[:1]))


@pytest.mark.parametrize(
    ("kind", "record", "said"),
    [
        ("scienceqa", {"question": "Q"}, "line 1: no field 'split'; it has 'question'"),
        ("scienceqa", {"split": "dev"}, "split = 'dev', but it must be one of train, val, test"),
        (
            "scienceqa",
            {"split": "test", "question": "Q", "choices": "AB", "answer": 0},
            "'choices' must be a list of texts",
        ),
        ("scienceqa", {"split": "test", "choices": ["x", "y"], "answer": 2}, "answer = 2 must be the position"),
        ("cos_e", {"split": "train", "choices": ["x"], "answer": "y"}, "answer = 'y' is none of its choices"),
        ("mbpp", {"task_id": "11"}, "'task_id' must be a whole number, but it is '11'"),
        ("mbpp", {"task_id": 11, "code": "def f(:", "test_list": [], "test_imports": [], "prompt": "P"}, "no Python"),
        ("humaneval", {"prompt": "def g(): pass", "entry_point": "f"}, "prompt does not define entry_point = 'f'"),
        (
            "toolalpaca",
            {"split": "eval_simulated", "Instructions": ["a"], "Golden_Answers": []},
            "Golden_Answers only 0",
        ),
    ],
)
def test_a_bad_record_is_refused_with_its_line_and_field(tmp_path, kind, record, said):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(record))
    message = refusal(
        {
            "scienceqa": ScienceQATask,
            "cos_e": CosETask,
            "mbpp": MBPPTask,
            "humaneval": HumanEvalTask,
            "toolalpaca": ToolAlpacaTask,
        }[kind](type=kind, data=path)
    )
    assert said in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no records"),
        ("{", "line 1: not a JSON object"),
        ("[1]", "not a JSON object but int"),
        ("[", "not a JSON array"),
    ],
)
def test_a_file_that_holds_no_records_is_refused(tmp_path, text, said):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    assert said in refusal(MBPPTask(type="mbpp", data=path))
    assert "is not a file" in refusal(MBPPTask(type="mbpp", data=tmp_path / "none.jsonl"))


def test_an_array_file_reads_like_lines(tmp_path):
    lines = shared("mbpp_sanitized.jsonl").read_text().splitlines()
    path = tmp_path / "sanitized-mbpp.json"
    path.write_text("[" + ",\n".join(lines) + "]")
    array = load_task(MBPPTask(type="mbpp", data=path))
    assert array.train == load_task(CONFIGS["mbpp"]()).train


def test_caps_take_the_first_ones():
    whole = load_task(CONFIGS["cos_e"]())
    capped = load_task(CosETask(type="cos_e", data=shared("cos_e.jsonl"), train_examples=5, eval_examples=7))
    assert (capped.train, capped.evaluation) == (whole.train[:5], whole.evaluation[:7])


def test_data_of_another_size_than_the_papers_is_said_once(capsys):
    print_once.cache_clear()
    load_task(CONFIGS["scienceqa"]())
    load_task(CONFIGS["scienceqa"]())
    said = capsys.readouterr().err
    assert said.count("300 train problems, expected 6,508") == 1
    assert "300 test problems, expected 2,224" in said
    load_task(CONFIGS["mbpp full"]())
    load_task(CONFIGS["humaneval"]())
    assert capsys.readouterr().err == ""
    assert size_warnings("x", {"test": 448}, {"test": 448}) == []


def test_toolalpaca_says_how_many_answers_cannot_be_graded(capsys):
    print_once.cache_clear()
    task = load_task(CONFIGS["toolalpaca"]())
    assert "32 of 100 held-out instructions have no gradable answer" in capsys.readouterr().err
    optional = [example for example in task.evaluation if '"optional": true' in example.answer]
    assert [example.id for example in optional] == ["Auth0-11"]


def test_the_hubs_form_of_toolalpaca_is_graded_like_the_sources(tmp_path):
    datasets = pytest.importorskip("datasets")
    call = {"Action": "find", "Action_Input": '{"name": "Ada"}'}
    react = 'Thought: look.\nAction: find\nAction Input: {"name": "Ada"}'
    rows = {
        "train": [{"prompt": "P1", "instruction": "I", "golden_answer": [call], "golden_response": [react]}],
        "test": [{"prompt": "P2", "instruction": "I", "golden_answer": [call], "golden_response": [""]}],
    }
    for split, records in rows.items():
        datasets.Dataset.from_list(records).to_parquet(tmp_path / f"{split}.parquet")
    task = load_task(ToolAlpacaTask(type="toolalpaca", hub=str(tmp_path)))
    assert task.train[0].demonstration == react
    for example in examples(task):
        assert task.grade(react, example)
        assert not task.grade(react.replace("Ada", "Ben"), example)


def test_the_hubs_form_of_the_others_gives_the_same_examples(tmp_path):
    datasets = pytest.importorskip("datasets")

    def hub(name, split_names, drop=()):
        folder = tmp_path / name
        folder.mkdir()
        rows = [json.loads(line) for line in shared(f"{name}.jsonl").read_text().splitlines()]
        for ours, theirs in split_names.items():
            records = [
                {k: v for k, v in row.items() if k not in ("split", *drop)} for row in rows if row.get("split") == ours
            ]
            datasets.Dataset.from_list(records or rows).to_parquet(folder / f"{theirs}.parquet")
        return str(folder)

    humaneval = load_task(HumanEvalTask(type="humaneval", hub=hub("humaneval", {"test": "test"})))
    assert humaneval.evaluation == load_task(CONFIGS["humaneval"]()).evaluation
    folder = hub("scienceqa", {"train": "train", "test": "test"}, drop=("pid",))
    science = load_task(ScienceQATask(type="scienceqa", hub=folder))
    local = load_task(CONFIGS["scienceqa"]())
    assert [e.answer[3:] for e in examples(science)] == [e.answer[3:] for e in examples(local)]


def test_data_that_is_neither_here_nor_on_the_hub_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"task\.hub = .*nothing.*set task\.data to a local copy"):
        load_task(HumanEvalTask(type="humaneval", hub=str(tmp_path / "nothing")))


def config(task) -> Config:
    return Config(
        task=task, model=ModelConfig(path="owner/model"), objective=ObjectiveConfig(divergence=JensenShannon())
    )


def test_training_on_an_evaluation_benchmark_or_on_bad_data_is_refused_before_anything_heavy(tmp_path):
    with pytest.raises(UserError, match='"gpqa" is for evaluation only'):
        check_without_imports(config(gpqa(tmp_path / "a.csv")))
    with pytest.raises(UserError, match="is not a file"):
        check_without_imports(config(CosETask(type="cos_e", data=tmp_path / "none.jsonl")))
    check_without_imports(config(CosETask(type="cos_e")))


def test_the_check_of_local_data_imports_neither_torch_nor_datasets_nor_ray():
    path = shared("mbpp.jsonl")
    code = (
        "import sys; from pathlib import Path; from unisd_rl.config.task import MBPPTask;"
        "from unisd_rl.tasks.load import check_task;"
        f"check_task(MBPPTask(type='mbpp', variant='full', data=Path({str(path)!r})));"
        "print(sorted({'torch', 'datasets', 'ray', 'vllm', 'transformers', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_tests_of_mbpp_use_names_and_modules_of_the_reference_only():
    references = {e.id: Reference.from_json(e.answer) for e in examples(load_task(CONFIGS["mbpp full"]()))}
    assert references["mbpp-367"].names == ("Node", "is_tree_balanced")
    assert references["mbpp-126"].names == ("sum",)
    (record,) = (record for record in from_file(shared("mbpp.jsonl")) if record.integer("task_id") == 596)
    assert Reference.from_json(to_example(record, "full").answer).setup == "import sys"
    assert all(reference.names for reference in references.values())
