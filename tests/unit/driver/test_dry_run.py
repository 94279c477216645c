"""The dry run tells the truth: what it shows is what the run reads, and what the run would refuse it refuses."""

import json
import re
from functools import partial
from uuid import uuid4

import pytest

from tests.fakes.commands import SMALL
from tests.fakes.failing_store import FAILING, store_fails_in
from tests.fakes.rollout_rows import append, rollout
from tests.fakes.tiny_chat_model import save_model, save_tokenizer
from unisd_rl import evaluate, prepare, run
from unisd_rl.config.load import load_recipe
from unisd_rl.contexts.prepare import Preparation
from unisd_rl.contexts.prompts import PromptStream
from unisd_rl.driver.dry_run import describe_data, describe_storage
from unisd_rl.errors import UserError
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.storage.stores import pin_location
from unisd_rl.tasks.load import load_task
from unisd_rl.transport.rollouts.ledger import Ledger


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    """No base model is there, and nothing is prepared yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "unisd-rl"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_tokenizer(path)
    save_model(path, tied=True)
    return path


@pytest.fixture
def own(tmp_path, model):
    """Words for a model and twelve records of one's own."""
    records = [
        {"prompt": f"How much is {n} + {n}?", "demonstration": f"{n} + {n} = {2 * n}\nAnswer: {2 * n}", "answer": 2 * n}
        for n in range(3, 15)
    ]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return ["--model.path", str(model), "--task.type", "jsonl", "--task.train", str(tmp_path / "records.jsonl")]


def said(capsys, *words, command=run.main):
    assert command([*words, "--dry-run"]) == 0
    return capsys.readouterr().out.splitlines()


def refused(capsys, *words, command=run.main):
    assert command([*words, "--dry-run"]) == 2
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    return sentence


def test_it_shows_counts_a_prompt_of_each_view_and_what_acts_and_trains_nothing(capsys, no_cache):
    lines = said(capsys, *SMALL)
    text = "\n".join(lines)
    assert lines[0] == "run runs/arithmetic: 40 steps of 64 prompts"
    assert "arithmetic: 64 training and 8 held-out problems" in lines
    assert any(line.startswith("trains on 64 of 64 problems") for line in lines)
    assert "2,560 prompts are 40 epochs" in text
    assert "the embedded base model is not there yet: the run trains it first, and keeps it" not in lines  # it ships
    views = [line for line in lines if line.startswith("--- ")]
    assert [view.partition(",")[0] for view in views] == [
        "--- student",
        "--- teacher",
        "--- auxiliary view (1 of 3)",
        "--- negative view",
    ]
    for name in ("divergence", "clipping", "agreement", "contrastive", "matching", "ema"):
        assert any(line.startswith(f"  {name} (") and line.endswith(" acts") for line in lines), name
    memory = lines.index("memory at the peak, beside about 0.6 GiB for the libraries of each process:")
    processes = [line.partition(": ")[0] for line in lines[memory + 1 : memory + 4]]
    assert processes == ["  1 x rollout actor", "  1 x learner rank", "  1 x object store"]
    assert "are available on this machine" in lines[memory + 4]
    assert lines[-1].startswith("no cluster (RAY_ADDRESS is not set)")
    assert not (no_cache / "base-models").exists()


def test_a_base_model_that_does_not_ship_is_said_to_be_trained_first(capsys, no_cache):
    lines = said(capsys, *SMALL, "--model.base_seed", "7")
    assert "the embedded base model is not there yet: the run trains it first, and keeps it" in lines
    assert not (no_cache / "base-models").exists()
    assert not (no_cache / "contexts").exists(), "contexts for a tokenizer without its model are nobody's"


def test_what_it_shows_is_what_the_student_and_the_teacher_read(capsys, own, model):
    text = "\n".join(said(capsys, *own))
    config = run.checked_request(own).config
    task, tokenizer = load_task(config.task), ChatTokenizer(model)
    prepared = Preparation.create(config, task, model, None, Silent()).prepared()
    first = PromptStream(task, config, prepared).prompt(0).prompt
    assert f"--- student, {len(tokenizer.encode(first.messages))} tokens:\n{tokenizer.render(first.messages)}" in text
    for kind in {view.kind for view in first.views}:
        shown = next(view.messages for view in first.views if view.kind is kind)
        assert f"{len(tokenizer.encode_view(shown))} tokens:\n{tokenizer.render_view(shown)}" in text


class Silent:
    def print(self, line):
        pass

    def progress(self, what):
        from contextlib import nullcontext

        return nullcontext(lambda *_: None)

    waiting = progress


def test_what_nobody_set_for_a_model_of_ones_own_is_shown_with_its_reason(capsys, own):
    lines = said(capsys, *own)
    assert "learner.batch_size = 16: as in the authors' runs" in lines
    for name in ("run.epochs", "learner.learning_rate", "model.dtype", "rollout.max_prompt_tokens"):
        assert any(line.startswith(f"{name} = ") and ": " in line for line in lines), name
    (line,) = [line for line in lines if line.startswith("rollout.max_completion_tokens = 256: ")]
    assert "twice the longest worked solution" in line
    assert not any("learning_rate" in line for line in said(capsys, *own, "--learner.learning_rate", "3e-5"))
    assert not any(line.startswith("learner.") for line in said(capsys, *SMALL))


def test_held_out_problems_that_are_trained_on_too_are_a_line(capsys, own, tmp_path):
    whole = tmp_path / "records.jsonl"
    (tmp_path / "held_out.jsonl").write_text("".join(whole.read_text().splitlines(keepends=True)[:2]))
    lines = said(capsys, *own, "--task.evaluation", str(tmp_path / "held_out.jsonl"))
    assert any(line.startswith("2 of 2 held-out problems are among the training problems too, first") for line in lines)


def test_what_it_prepared_the_run_finds(capsys, own, no_cache, model):
    said(capsys, *own)
    kept = set(no_cache.rglob("*.jsonl"))
    assert kept
    said(capsys, *own)
    assert set(no_cache.rglob("*.jsonl")) == kept


def test_a_mechanism_that_is_on_and_cannot_act_is_said_beside_those_that_do(capsys):
    clip = ("--objective.clipping.quantile", "null", "--objective.clipping.threshold", "10")
    lines = said(capsys, *SMALL, *clip)
    (clipping,) = [line for line in lines if line.startswith("  clipping ")]
    assert "does not act: clip threshold 10 can never bind" in clipping


def test_with_the_question_first_and_donors_of_a_step_it_shows_the_views_that_are_read(capsys, own):
    order = ("--contexts.order", "question_first", "--contexts.donors_per_step", "4")
    text = "\n".join(said(capsys, *own, *order, command=prepare.main))
    assert text.startswith("3 auxiliary views (retrieval of 4 donors a step), ")
    views = [view.partition("\n")[2] for view in text.split("\n--- ")[1:]]
    question = re.search(r"How much is \d+ \+ \d+\?", views[0])[0]
    assert len(views) == 4
    assert all(re.search(r"How much is \d+ \+ \d+\?", view)[0] == question for view in views)
    assert [view.count("How much is") for view in views] == [1, 1, 2, 1]


def test_views_that_a_model_makes_are_named_and_the_others_shown(capsys):
    induction = ("--contexts.auxiliary.type", "induction", "--contexts.negative.type", "generated")
    lines = said(capsys, *SMALL, *induction)
    assert any(line.startswith("--- teacher, with the worked solution") for line in lines)
    for kind, type_ in (("auxiliary", "induction"), ("negative", "generated")):
        (line,) = [line for line in lines if line.startswith(f"--- {kind} view")]
        assert f'a model makes it (contexts.{kind}.type = "{type_}")' in line


def test_a_run_without_a_teacher_shows_the_gold_completion(capsys):
    lines = said(capsys, "sft", *SMALL)
    assert [line.partition(",")[0] for line in lines if line.startswith("--- ")] == [
        "--- student",
        "--- gold completion",
    ]


def test_what_lacks_a_place_is_the_last_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("unisd_rl.cluster.resources.DRIVER_LISTS_GPUS", tmp_path / "none")
    lines = said(capsys, "unisd_star", *SMALL, "--rollout.gpus_per_actor", "1", "--rollout.actors", "3")
    assert lines[-1].endswith("which lacks GPUs: 3 needed")


def test_a_model_or_data_that_no_hub_gives_now_is_said_and_the_rest_is_shown(capsys, own):
    lines = said(capsys, "--model.path", "owner/name", *own[2:])
    assert "no prompt is looked at: owner/name is neither on this machine nor reachable from it" in lines
    assert lines[-1].startswith("no cluster")
    lines = said(capsys, *own[:2], "--task.type", "scienceqa")
    assert any(line.startswith("the data is not looked at, since it is neither on this machine") for line in lines)


REFUSED = {
    "too few records": (["--task.eval_examples", "12"], "which leaves none to train on"),
    "a wrong field": (["--task.fields.prompt", "question"], "no field 'question'; it has 'prompt'"),
    "prompts that do not fit": (["--rollout.max_prompt_tokens", "20"], "longer than rollout.max_prompt_tokens = 20"),
    "beyond the model's positions": (["--rollout.max_completion_tokens", "3000"], "2048 positions"),
    "an adapter for layers that are not there": (["--model.lora.targets", '["no_such_layer"]'], "no_such_layer"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("command", [run.main, prepare.main])
def test_what_a_run_would_refuse_later_is_refused_now(case, command, own, capsys):
    words, named = REFUSED[case]
    assert named in refused(capsys, *own, *words, command=command)


def test_a_mistyped_argument_of_a_factory_is_refused(capsys, model):
    factory = ["--task.type", "python", "--task.factory", "examples.backwards_task:load"]
    sentence = refused(capsys, "--model.path", str(model), *factory, "--task.arguments", '{"held_uot": 4}')
    assert "held_uot" in sentence


def test_an_evaluation_is_refused_for_problems_that_are_too_long(capsys):
    words = ["base", "--task.eval_examples", "8"]
    assert "8 of 8 held-out problems" in refused(
        capsys, *words, "--rollout.max_prompt_tokens", "10", command=evaluate.main
    )
    lines = said(capsys, *words, command=evaluate.main)
    assert "arithmetic: 4,000 training and 8 held-out problems" in lines
    assert any(line.startswith("--- base on arithmetic, ") for line in lines)
    assert lines[-1].startswith("no cluster")


def test_a_run_that_is_resumed_has_the_problems_it_began_with(tmp_path, model):
    config = load_recipe(
        "unisd_star",
        {"model": {"path": str(model)}, "task": {"train_examples": 16, "eval_examples": 4}, "run": {"steps": 2}},
    )
    described = partial(describe_data, config, tmp_path)
    list(described())
    (tmp_path / "prompts.json").write_text(json.dumps({"checksum": "another"}))
    with pytest.raises(UserError, match="are not those that"):
        list(described())
    assert json.loads((tmp_path / "prompts.json").read_text()) == {"checksum": "another"}, "nothing is noted"


def test_it_says_which_rollouts_stay_and_of_a_run_that_is_resumed_what_those_of_a_day_take(tmp_path):
    config = load_recipe("unisd_star", {"run": {"dir": str(tmp_path)}, "learner": {"batch_size": 4}})
    assert describe_storage(config, resumed=True).startswith("rollouts: all stay (rollout.keep); a dry run of")
    config.run_dir.mkdir()
    step = {"wait_s": 1.0, "learn_s": 2.5, "publish_s": 0.5}  # 4 s
    (config.run_dir / "metrics.jsonl").write_text(f"{json.dumps(step)}\n" * 2)
    ledger = Ledger(config.run_dir / "rollouts", fsync=False)
    append(ledger, *(rollout(number) for number in range(8)))
    a_day = ledger.nbytes / 8 * 4 * 86_400 / 4 / 2**30
    said = (
        f"rollouts: 8 take {ledger.nbytes / 2**30:.3g} GiB, and those of a day {a_day:.3g} GiB; all stay (rollout.keep)"
    )
    assert describe_storage(config, resumed=True) == said
    assert "a dry run of a run that is resumed" in describe_storage(config, resumed=False)
    some = {"rollout": {"keep": 30}, "run": {"checkpoint_every": 20, "keep_checkpoints": 2}}
    assert "the last 40 steps stay, others go 64 MiB at a time" in describe_storage(
        load_recipe("unisd_star", some), False
    )


def test_a_store_of_rollouts_that_does_not_answer_is_said_and_ends_no_dry_run(tmp_path):
    config = load_recipe("unisd_star", {"run": {"dir": str(tmp_path)}})
    pin_location(config.run_dir / "rollouts", f"{FAILING}://{uuid4()}")
    step = {"wait_s": 1.0, "learn_s": 2.5, "publish_s": 0.5}
    (config.run_dir / "metrics.jsonl").write_text(f"{json.dumps(step)}\n")
    append(Ledger(config.run_dir / "rollouts", fsync=False), rollout(0))
    assert "rollouts: 1 take" in describe_storage(config, resumed=True)
    with store_fails_in("segments"):
        said = describe_storage(config, resumed=True)
    assert "all stay (rollout.keep); those of this run cannot be read now: failing://" in said
