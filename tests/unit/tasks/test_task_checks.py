"""What must hold for every task's problems, whoever made them, is refused in one sentence when it does not."""

import json
import sys
from dataclasses import replace
from functools import partial
from itertools import count
from types import ModuleType

import pytest

from tests.fakes.shared_data import shared
from unisd_rl.config.task import CosETask, JsonlTask, MBPPTask, PythonTask, ScienceQATask
from unisd_rl.errors import UserError
from unisd_rl.run import main
from unisd_rl.tasks.load import check_task, load_task
from unisd_rl.tasks.records import Records
from unisd_rl.tasks.source_records import print_once
from unisd_rl.types import Example, Message

GOOD = [Example(f"p{n}", f"Question {n}?", f"Work.\nAnswer: {n}", str(n)) for n in range(12)]
NUMBERS = count()


class Own(Records):
    """A task of a user's own, with one thing in it that may be wrong."""

    def __init__(self, train=GOOD[:8], evaluation=GOOD[8:], chat=None, grade=None):
        super().__init__(train, evaluation)
        self.chat, self.own_grade = chat, grade

    def student_messages(self, example):
        return super().student_messages(example) if self.chat is None else self.chat(example)

    def grade(self, completion, example):
        return super().grade(completion, example) if self.own_grade is None else self.own_grade(completion, example)


@pytest.fixture
def section(monkeypatch):
    """Makes a configuration whose factory is this function."""

    def make(factory, **arguments):
        module = ModuleType(f"own_task_{next(NUMBERS)}")
        module.load = factory
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return PythonTask(type="python", factory=f"{module.__name__}:load", arguments=arguments)

    return make


@pytest.fixture
def refusal(section):
    def refused(**given) -> str:
        with pytest.raises(UserError) as error:
            load_task(section(lambda: Own(**given)))
        assert "\n" not in str(error.value)
        assert str(error.value).startswith("task.factory = 'own_task_")
        return str(error.value)

    return refused


def test_a_task_that_keeps_all_of_it_loads_without_a_word(section, capsys):
    assert load_task(section(Own)).train == GOOD[:8]
    assert capsys.readouterr().err == ""


def test_held_out_problems_that_are_trained_on_too_are_counted_and_named_and_not_refused(section, capsys):
    again = [replace(GOOD[3], id="e3", question=" QUESTION\t3? "), GOOD[9], replace(GOOD[5], id="e5")]
    assert load_task(section(lambda: Own(evaluation=again))).evaluation == again
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "2 of 3 held-out problems are among the training problems too, first 'e3' as 'p3'" in said


def test_a_problem_with_another_system_turn_is_another_problem(section, capsys):
    def chat(example):
        return Message("system", f"You are {example.answer}."), Message("user", "What are you?")

    load_task(section(lambda: Own(chat=chat)))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("split", ["train", "evaluation"])
def test_an_id_that_occurs_twice_in_a_task_of_ones_own_is_refused(refusal, split):
    twice = [*GOOD[:4], replace(GOOD[4], id="p1")]
    assert "the id 'p1' occurs twice among the " in refusal(**{split: twice})


def test_an_id_that_occurs_twice_in_a_benchmarks_source_files_is_refused(tmp_path):
    folder = shared("cos_e_source")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    questions = tmp_path / "train_rand_split.jsonl"
    first = json.loads(questions.read_text().splitlines()[0])
    other = {**first, "answerKey": "A" if first["answerKey"] != "A" else "B"}
    questions.write_text(questions.read_text().rstrip("\n") + "\n" + json.dumps(other) + "\n")
    with pytest.raises(UserError, match=f"the id '{first['id']}' occurs twice"):
        load_task(CosETask(type="cos_e", data=tmp_path))


def test_an_id_that_occurs_twice_in_one_object_of_ids_is_refused(tmp_path):
    (tmp_path / "pid_splits.json").write_text('{"train": [], "val": [], "test": ["1"]}')
    (tmp_path / "problems.json").write_text('{"1": {"question": "A"}, "2": {}, "1": {"question": "B"}}')
    with pytest.raises(UserError, match=r"problems\.json: the field '1' occurs twice"):
        load_task(ScienceQATask(type="scienceqa", data=tmp_path))


def test_a_task_without_training_or_held_out_problems_is_refused(section, refusal):
    assert "no training problems" in refusal(train=[])
    assert "no held-out problems" in refusal(evaluation=[])
    assert load_task(section(lambda: Own(train=[])), for_training=False).train == []


def test_a_benchmarks_copy_without_its_training_part_is_refused_for_training(tmp_path):
    lines = [line for line in shared("cos_e.jsonl").read_text().splitlines() if json.loads(line)["split"] != "train"]
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    config = CosETask(type="cos_e", data=tmp_path / "test.jsonl")
    with pytest.raises(UserError, match="no training problems"):
        load_task(config)
    assert len(load_task(config, for_training=False).evaluation) == len(lines)


def test_a_run_of_a_task_that_is_not_whole_ends_before_anything_starts(section, tmp_path, capsys):
    for given in ({"train": []}, {"evaluation": []}, {"chat": lambda example: (Message("assistant", "A"),)}):
        task = ("--task.type", "python", "--task.factory", section(partial(Own, **given)).factory)
        assert main(["unisd_star", *task, "--model.path", str(tmp_path), "--run.dir", str(tmp_path / "runs")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: task.factory = ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "chat,said",
    [
        (lambda example: (Message("user", "Q"), Message("assistant", "A")), "its last turn is 'assistant'"),
        (lambda example: (), "its last turn is none"),
        (lambda example: "Q", "must be a tuple of Message with text, but it is 'Q'"),
        (lambda example: ({"role": "user", "content": "Q"},), "must be a tuple of Message"),
        (lambda example: (Message("user", None),), "must be a tuple of Message with text"),
        (lambda example: None, "must be a tuple of Message"),
        (lambda example: (Message("user", "a\ud83d"),), r"holds '\ud83d', half of a surrogate pair"),
        (lambda example: 1 / 0, "raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_chat_that_no_view_can_be_made_of_is_refused(refusal, chat, said):
    assert said in refusal(chat=chat)


@pytest.mark.parametrize(
    "changed,said",
    [
        ({"answer": 7}, "training problem 3: its answer must be text, but it is 7"),
        ({"id": 3}, "training problem 3: its id must be text, but it is 3"),
        ({"demonstration": None}, "its demonstration must be text, but it is None"),
        ({"question": "half \udc00"}, r"its question holds '\udc00', half of a surrogate pair"),
    ],
)
def test_a_problem_with_a_part_that_is_no_text_is_refused(refusal, changed, said):
    assert said in refusal(train=[*GOOD[:3], replace(GOOD[3], **changed)])


def test_problems_that_are_no_list_are_refused(refusal):
    assert "its train must be a list, but it is a generator" in refusal(train=(example for example in GOOD))


def test_a_factory_or_a_module_that_raises_is_told_in_one_sentence(section, tmp_path, monkeypatch):
    def broken(size: int):
        raise KeyError(size)

    with pytest.raises(UserError, match=r"task\.arguments = {'size': 3} raised KeyError: 3 \(.*line \d+\)"):
        load_task(section(broken, size=3))
    (tmp_path / "no_python.py").write_text("def load(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"cannot be imported from .* SyntaxError"):
        check_task(PythonTask(type="python", factory="no_python:load"))


def test_a_mistyped_argument_is_refused_before_anything_is_made(section):
    with pytest.raises(UserError, match="unexpected keyword argument 'held_uot'"):
        check_task(section(lambda held_out=3: Own(), held_uot=4))


def test_gold_that_its_own_grader_finds_wrong_is_refused_with_an_example(refusal):
    def ending(mark):
        return [replace(example, demonstration=f"Work.\n{mark.format(example.answer)}") for example in GOOD]

    for mark, shown in (("#### {}", "#### 0'"), (r"So \boxed{{{}}}", "boxed{0}'")):
        gold = ending(mark)
        said = refusal(train=gold[:8], evaluation=gold[8:])
        assert "finds 12 of 12 worked solutions wrong, first that of problem 'p0', which ends 'Work." in said
        assert f"{shown} where the answer is '0'" in said


def test_some_wrong_gold_is_named_with_the_share_and_an_example(section, capsys):
    print_once.cache_clear()
    mixed = [*GOOD[:6], *(replace(example, demonstration="no answer") for example in GOOD[6:8])]
    assert len(load_task(section(lambda: Own(train=mixed))).train) == 8
    said = capsys.readouterr().err
    assert "finds 2 of 12 worked solutions wrong, first that of problem 'p6', which ends 'no answer'" in said


def test_a_grader_that_raises_on_its_own_gold_is_told(refusal):
    assert "grade of a worked solution raised IndexError" in refusal(grade=lambda completion, example: [][0])


def test_gold_is_looked_at_in_a_bounded_spread_where_programs_may_run(section, refusal):
    graded = []

    def grade(completion, example):
        graded.append(example.id)
        return False

    many = [replace(GOOD[0], id=f"p{n}") for n in range(1000)]
    assert "finds 63 of 63 worked solutions wrong" in refusal(train=many, grade=grade)
    assert len(graded) == 63
    assert sorted(graded)[0] == "p0"
    assert any(int(name[1:]) > 980 for name in graded)


def test_held_out_problems_may_come_without_a_worked_solution(section):
    bare = [replace(example, demonstration="") for example in GOOD[8:]]
    assert load_task(section(lambda: Own(evaluation=bare))).evaluation == bare


def test_gold_of_own_records_is_graded_too(tmp_path):
    rows = [{"prompt": f"Q{n}", "demonstration": f"Work.\n#### {n}", "answer": n} for n in range(8)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"a\.jsonl: its grader finds 8 of 8 .* ends 'Work\.\\n#### 0' .*own_data\.md"):
        load_task(JsonlTask(type="jsonl", train=tmp_path / "a.jsonl"))


def test_gold_of_the_published_benchmarks_passes(capsys):
    print_once.cache_clear()
    load_task(MBPPTask(type="mbpp", data=shared("mbpp_sanitized.jsonl")))
    assert "worked solutions wrong" not in capsys.readouterr().err
