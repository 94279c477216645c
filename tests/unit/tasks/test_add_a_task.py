"""The guide's example is a whole task, in under 60 lines; what is no task is refused in one sentence."""

import re
import sys
from pathlib import Path

import pytest

from unisd_rl.config.task import PythonTask
from unisd_rl.errors import UserError
from unisd_rl.tasks.load import load_task

GUIDE = Path(__file__).parents[3] / "docs" / "add_a_task.md"


@pytest.fixture
def guide(tmp_path, monkeypatch):
    """The folder of a user who saved the guide's example."""
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    (tmp_path / "backwards.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "backwards", raising=False)
    return code


def section(factory, **arguments):
    return PythonTask(type="python", factory=factory, arguments=arguments)


def test_the_guides_example_has_under_60_lines(guide):
    assert len(guide.splitlines()) < 60


def test_the_guides_example_is_a_task(guide):
    task = load_task(section("backwards:load", held_out=5))
    assert len(task.evaluation) == 5
    assert not {one.id for one in task.train} & {one.id for one in task.evaluation}
    for one in (*task.train, *task.evaluation):
        assert task.grade(one.demonstration, one)
        assert not task.grade("no answer", one)
        assert one.answer not in "".join(message.content for message in task.student_messages(one))
        assert any(not task.grade(wrong, one) for wrong in task.wrong_demonstrations(one, 0))
        assert list(task.wrong_demonstrations(one, 0)) == list(task.wrong_demonstrations(one, 0))


@pytest.mark.parametrize(
    "factory,arguments,said",
    [
        ("nowhere:load", {}, "nowhere"),
        ("backwards:missing", {}, "missing"),
        ("backwards:WORDS", {}, "no function"),
        ("backwards:load", {"cats": 1}, "cats"),
        ("backwards:example", {"word": "cat"}, "without train"),
    ],
)
def test_what_is_no_task_is_refused_in_one_sentence(guide, factory, arguments, said):
    with pytest.raises(UserError, match=said) as refused:
        load_task(section(factory, **arguments))
    assert "\n" not in str(refused.value)
