"""`unisd-rl push RUN --to NAME`: the hub has the model's files as they are, and nothing that only training reads."""

import json

import pytest

from tests.fakes.hub import hub
from tests.fakes.run_folder import answer, run_folder
from unisd_rl.__main__ import main
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.storage.checkpoints import RUN_STATE, RunState, write_manifest

FILES = {
    "config.json": b'{"model_type": "qwen2"}',
    "generation_config.json": b'{"eos_token_id": 1}',
    "chat_template.jinja": b"{{ messages }}",
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 64,
}
ADAPTER = {"adapter_config.json": b'{"r": 4}', "adapter_model.safetensors": b"factors"}


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints of steps 2 and 4, and evaluations around them."""
    grades = {0: [answer("a", False), answer("b", False)], 4: [answer("a", True), answer("b", False)]}
    folder = run_folder(tmp_path / "sums", evaluations=grades)
    for step in (2, 4):
        checkpoint = folder / "checkpoints" / f"step-{step}"
        for name, content in {**FILES, "training_state/a.safetensors": b"state"}.items():
            (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
            (checkpoint / name).write_bytes(content)
        (checkpoint / RUN_STATE).write_text(RunState(0, step, 8 * step, ()).to_json())
        write_manifest(checkpoint)
    return folder


@pytest.fixture
def server(monkeypatch):
    """The hub that the library finds; no network beyond it, and no protocol that needs another server."""
    from huggingface_hub import constants

    with hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield found


def test_the_newest_checkpoint_goes_there_with_its_card_and_without_what_training_resumes_from(run, server, capsys):
    assert main(["push", str(run), "--to", "owner/sums"]) == 0
    assert capsys.readouterr().out == f"{server.url}/owner/sums\n"
    there = server.files["owner/sums"]
    assert {name: there[name] for name in FILES} == FILES
    assert there.keys() == FILES.keys() | {"README.md"}
    assert "| 4 | 50.0% |" in there["README.md"].decode()
    assert server.private == {"owner/sums"}
    assert server.tokens == {"Bearer hf_secret"}


def test_another_checkpoint_may_be_named_and_a_card_that_is_there_stays(run, server):
    (run / "checkpoints" / "step-2" / "README.md").write_text("mine")
    assert main(["push", f"{run}@2", "--to", "owner/sums", "--public"]) == 0
    assert server.files["owner/sums"]["README.md"] == b"mine"
    assert server.private == set()


def test_an_adapter_goes_alone_where_it_is_asked_for(run, server, capsys):
    words = ["push", str(run), "--to", "owner/adapter", "--adapter"]
    assert main(words) == 2
    assert "holds no adapter, as all weights were trained; leave it out" in capsys.readouterr().err
    folder = run / "checkpoints" / "step-4" / "adapter"
    folder.mkdir()
    for name, content in ADAPTER.items():
        (folder / name).write_bytes(content)
    assert main(words) == 0
    there = server.files["owner/adapter"]
    assert {name: there[name] for name in ADAPTER} == ADAPTER
    assert there.keys() == ADAPTER.keys() | {"README.md"}


def test_a_checkpoint_that_is_damaged_is_not_pushed(run, server, capsys):
    (run / "checkpoints" / "step-4" / "model.safetensors").write_bytes(b"cut")
    assert main(["push", str(run), "--to", "owner/sums"]) == 2
    assert "its checksum differs; name another checkpoint as RUN@STEP" in capsys.readouterr().err
    assert server.files == {}


REFUSED = {
    "no run": (lambda run: [str(run.parent), "--to", "a/b"], "is not the folder of a run: it has no config.toml"),
    "no such step": (lambda run: [f"{run}@3", "--to", "a/b"], "has no such checkpoint; it has those of: 4, 2"),
    "no name": (lambda run: [str(run), "--to", "a/b/c"], "--to a/b/c is no name of a repository"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_pushed_is_refused_in_one_sentence(run, server, name, capsys):
    words, reason = REFUSED[name]
    assert main(["push", *words(run)]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("status", "code", "reason"), [(401, 2, "log in as somebody who may"), (403, 2, "(403)")])
def test_a_hub_that_refuses_says_what_to_do(run, server, status, code, reason, capsys):
    server.status = status
    assert main(["push", str(run), "--to", "owner/sums"]) == code
    assert reason in capsys.readouterr().err


def test_a_hub_that_is_not_there_ends_the_command_with_its_address(run, server, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(run), "--to", "owner/sums"]) == 1
    assert "http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err


def test_the_card_says_what_the_model_was_trained_from_and_how_it_answers(tmp_path):
    from unisd_rl.reporting.model_card import model_card
    from unisd_rl.reporting.record import RunRecord

    choice = {"stated": 1, "likelihood_accuracy": None, "chance": 0.25, "letter": "B", "most_frequent": 0.5}
    folder = run_folder(
        tmp_path / "a|b",
        evaluations={0: [answer("a", False)], 2: [answer("a", True)], 4: [answer("a", False)]},
        model={"path": "/home/somebody/secret/Model-1B", "lora": {"rank": 24}},
        run={"recipe": "unisd_star, my.toml"},
    )
    numbers = json.loads((folder / "evaluations" / "step-2.json").read_text())
    (folder / "evaluations" / "step-2.json").write_text(json.dumps({**numbers, "choice": choice, "cut": 3}))
    card = model_card(RunRecord.at(folder), 2)
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "secret" not in card
    assert "`Model-1B`, trained by on-policy self-distillation" in card
    assert "for 2 steps with unisd-rl, recipe unisd_star, my.toml:\n" in card
    assert "\nvllm serve PATH_OR_NAME_OF_THIS_MODEL\n" in card
    assert "\nvllm serve PATH_OF_THE_BASE --enable-lora --max-lora-rank 32 --lora-modules NAME=" in card
    assert "# a b\n" in card
    assert "| 0 | 0.0% | 0.0% to 100.0% |" in card
    assert "| 2 | 100.0% | 0.0% to 100.0% |  |  | 3 |" in card
    assert "| 4 |" not in card  # after this checkpoint
    assert "1 answers state an option; chance is 25.0%, always B 50.0%." in card
    assert "| `model.lora.rank` | 24 |" in card
    assert "left it" not in card
    assert "| `objective.divergence.alpha` |" in card
    assert "transformers" in card.partition("## Versions")[2]


def test_the_card_of_a_run_without_a_teacher_names_none(tmp_path):
    from unisd_rl.reporting.model_card import model_card
    from unisd_rl.reporting.record import RunRecord

    config = load_recipe("sft").made_from("sft")
    folder = tmp_path / "run"
    RunDirectory(folder).create(config)
    card = model_card(RunRecord.at(folder), 5)
    trained = "the embedded base model, trained on the likelihood of completions for 5 steps with unisd-rl, recipe sft."
    assert f"\n{trained}\n" in card
    assert "teacher" not in card
    assert "--enable-lora" not in card


def test_the_card_of_a_fork_names_the_checkpoint_that_it_began_with_and_not_where_that_lay(tmp_path):
    from unisd_rl.reporting.model_card import model_card
    from unisd_rl.reporting.record import RunRecord

    fork = {"forked_from": "/home/somebody/secret/sums@4"}
    card = model_card(RunRecord.at(run_folder(tmp_path / "run", run=fork)), 2)
    assert "the embedded base model, as the checkpoint `sums@4` left it, trained by on-policy self-distillation" in card
    assert "secret" not in card


def test_a_base_on_a_hub_is_named_for_the_hub(tmp_path):
    from unisd_rl.reporting.model_card import model_card
    from unisd_rl.reporting.record import RunRecord

    hub = {"path": "owner/base", "lora": {"rank": 8}}
    card = model_card(RunRecord.at(run_folder(tmp_path / "run", model=hub)), 0)
    assert 'base_model: "owner/base"' in card
    assert "\nvllm serve owner/base --enable-lora --max-lora-rank 8 --lora-modules NAME=PATH_OF_ADAPTER\n" in card
