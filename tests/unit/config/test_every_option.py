"""Every option works: each field at the ends of its range, each member of each union and each null is accepted, or
refused in one sentence with exit code 2; from a recipe and from the command line; never a traceback."""

from functools import cache

import pytest

from learner.plan import scoring_plan
from tests.fakes.schema_cases import cases
from unisd_rl import evaluate, run
from unisd_rl.cli import exit_code
from unisd_rl.cluster.cores import core_plan
from unisd_rl.cluster.resources import describe_local, requirements
from unisd_rl.config import Config, load
from unisd_rl.config.load import load_recipe
from unisd_rl.config.schema import ineffective_settings, slower_settings
from unisd_rl.evaluation.request import UNREAD

pytestmark = pytest.mark.exhaustive

EVALUATED = ("run", "model", "task", "rollout", "evaluation")
OPTIONS = ("evaluation.retention", "model.path")
"""The models of an evaluation and `--retention` are options of their own."""
EVALUATION_ONLY = ("gpqa", "humaneval")
LONGEST_SENTENCE = 500


@pytest.fixture(autouse=True, scope="module")
def recipes_read_once():
    """Thousands of cases lie over the same two files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "_layers", cache(load._layers))
        yield


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """What some sections cannot do without; see `schema_cases.cases`."""
    folder = tmp_path_factory.mktemp("own")
    records = [f'{{"prompt": "p{n}", "demonstration": "Answer: {n}", "answer": "{n}"}}\n' for n in range(8)]
    (folder / "records.jsonl").write_text("".join(records))
    (folder / "config.json").write_text("{}")
    own = {"model": {"path": str(folder)}}
    others = ("multiples", "tool_use", "scienceqa", "cos_e", "gpqa", "gsm8k", "math", "mbpp", "humaneval", "toolalpaca")
    return {
        "task.jsonl": own | {"task": {"train": str(folder / "records.jsonl")}},
        "task.datasets": own | {"task": {"path": str(folder)}},
        "task.grader.regex": {"task": {"grader": {"pattern": r"\d+"}}},
        "task.grader.python": {"task": {"grader": {"function": "tests.fakes.schema_cases:any_task"}}},
        "task.python": own | {"task": {"factory": "tests.fakes.schema_cases:any_task"}},
        **{f"task.{name}": own for name in others},
        "rollout.actors": {"rollout": {"actors": {"max": 2}}},
        "rollout.sources": {"rollout": {"sources": {"policy": 0.5, "gold": 0.5}}},
        "objective.clipping": {"objective": {"clipping": {"threshold": 0.1, "quantile": None}}},
        "objective.reference_reductions": {"objective": {"clipping": None}},
    }


def refusal(command, arguments, capsys):
    """Why a command refuses these arguments, in its one sentence; None where it takes them."""
    code = exit_code(command, arguments)
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    if code == 0:
        assert said == []
        return None
    assert code == 2
    assert said[0].startswith("error: ")
    return "\n".join(said)


def as_recipe(case):
    """As the run's command checks a recipe with these sections, and with what reads a configuration before its data."""

    def command(_):
        read_by_all(config := load_recipe("unisd_star", case.tree))
        run.check_without_imports(config)
        return 0

    return command, []


def as_command_line(case):
    def command(words):
        read_by_all(run.checked_request(words).config)
        return 0

    return command, ["unisd_star", *case.words]


def as_evaluation(case):
    """Benchmarks for evaluation only are a matter of that command, which takes models as words."""
    model = case.context.get("model", {}).get("path", evaluate.BASE)

    def command(words):
        options, fields = evaluate._parser().parse_known_args(words)
        evaluate.check_without_imports(evaluate.evaluation_request([model], options, fields, evaluate.PROGRAM))
        return 0

    return command, [word for word in case.words if word != f"--model.path={model}"]


def task_of(case):
    return case.context.get("task", {}).get("type")


def read_by_all(config):
    assert all(isinstance(note, str) for note in (*ineffective_settings(config), *slower_settings(config)))
    describe_local(requirements(config))
    core_plan(config)
    scoring_plan(config)
    assert config.objective_settings.terms
    assert Config.model_validate(config.model_dump(mode="json")) == config, "config.toml is read again"


@pytest.mark.parametrize("given", [as_recipe, as_command_line])
@pytest.mark.parametrize("section", Config.model_fields)
def test_a_value_is_accepted_or_refused_in_one_sentence(section, given, samples, capsys):
    taught = [case for case in cases(section, samples) if task_of(case) not in EVALUATION_ONLY]
    check_all(taught, given, capsys)


@pytest.mark.parametrize("section", EVALUATED)
def test_an_evaluation_accepts_a_value_or_refuses_it_in_one_sentence(section, samples, capsys):
    read = [
        case
        for case in cases(section, samples)
        if not case.name.startswith((*UNREAD, *OPTIONS)) and case.name != "task"
    ]
    check_all(read, as_evaluation, capsys)


def check_all(all_cases, given, capsys):
    """Each outcome is right, and of every field some value is accepted."""
    wrong, never_taken = [], {case.name for case in all_cases if case.legal is not False}
    for case in all_cases:
        try:
            refused = refusal(*given(case), capsys)
        except BaseException as error:  # any at all is the fault that is looked for
            wrong.append(f"{case}: {error!r}"[:400])
            continue
        is_text = given is as_recipe or isinstance(case.value, str)  # on a command line every word is one
        if refused is None:
            never_taken.discard(case.name)
            if case.legal is False and is_text:
                wrong.append(f"{case}: accepted"[:400])
        elif "\n" in refused or len(refused) > LONGEST_SENTENCE:
            wrong.append(f"{case}: {refused}"[:400])
    assert not wrong, "\n".join(wrong)
    assert never_taken == set()
