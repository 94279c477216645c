"""`python -m unisd_rl.replay` before anything is trained: what it reads, what it compares, what it refuses."""

import asyncio
import fcntl
import json

import pytest
import tomli_w

from tests.fakes.commands import command, dry_run
from tests.fakes.compaction import wait_for_compaction
from tests.fakes.rollout_rows import rollout
from tests.fakes.tiny_chat_model import save_model, save_tokenizer
from unisd_rl.config.load import load_recipe, nested
from unisd_rl.driver.origin import check_origin, model_origin, other_weights
from unisd_rl.errors import UserError
from unisd_rl.replay import UNREAD, main, replay_request
from unisd_rl.storage.recorded_run import RecordedRun, changed_settings
from unisd_rl.transport.rollouts.ledger import Ledger
from unisd_rl.transport.rollouts.recording import Recording
from unisd_rl.transport.rollouts.schema import decode, encode

BATCH, STEPS = 4, 3


@pytest.fixture
def folder(tmp_path):
    """A run of three steps of four prompts: number 5 was given up, and each row is a segment of its own."""
    path = tmp_path / "run"
    path.mkdir()
    fields = {"run": {"name": "run", "dir": str(tmp_path), "steps": STEPS}, "learner": {"batch_size": BATCH}}
    config = load_recipe("unisd_star", fields)
    (path / "config.toml").write_text(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))
    (path / "base_model").mkdir()
    write_lines(path / "quarantined.jsonl", [{"prompt": 5, "actor": "a", "reason": "too long"}])
    write_lines(path / "metrics.jsonl", [{"step": step, "loss": float(step), "lineage": 0} for step in range(STEPS)])
    store(path, [number for number in range(BATCH * STEPS) if number != 5])
    return path


def store(path, numbers):
    """Each to a segment of its own."""
    for number in numbers:
        asyncio.run(Ledger(path / "rollouts", fsync=False).append(encode([rollout(number)])))


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def refusal(arguments, capsys):
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def recording(folder, steps=STEPS):
    return Recording(RecordedRun.at(folder), BATCH, 1, steps)


def test_a_batch_is_its_steps_stored_prompts_in_order_dealt_to_the_ranks(folder):
    found = recording(folder)
    assert (found.steps, found.rollouts) == (3, 11)
    shards, numbers = found.shards(1, 2)
    assert numbers == [4, 6, 7]
    assert [[row.number for row in decode(shard)] for shard in shards] == [[4, 7], [6]]


def test_groups_of_answers_are_dealt_whole_as_the_run_dealt_them(folder):
    shards, numbers = Recording(RecordedRun.at(folder), BATCH, 2, STEPS).shards(1, 2)
    assert numbers == [4, 6, 7]
    assert [[row.number for row in decode(shard)] for shard in shards] == [[4], [6, 7]]


def test_no_more_steps_than_asked_and_than_are_whole(folder):
    assert recording(folder, steps=2).steps == 2
    write_lines(folder / "quarantined.jsonl", [])
    assert recording(folder).steps == 1


def test_a_ledger_without_a_whole_step_is_refused(folder):
    (folder / "rollouts" / "index" / "00000003.jsonl").unlink()
    with pytest.raises(UserError, match=r"1 of its 4 prompts are not there, 2 first"):
        recording(folder)


def test_a_run_that_threw_rollouts_away_is_refused(folder):
    ledger = Ledger(folder / "rollouts", fsync=False)
    ledger.compact()
    ledger.discard(12)
    wait_for_compaction(ledger)
    with pytest.raises(UserError, match=r"no longer has the rollouts of prompts below 12.*rollout\.keep"):
        recording(folder)


def test_a_damaged_segment_is_refused_before_anything_is_trained(folder):
    segment = folder / "rollouts" / "segments" / "00000007.arrows"
    segment.write_bytes(segment.read_bytes()[:-9] + b"x" * 9)
    with pytest.raises(UserError, match=r"00000007\.arrows is damaged.*step 1 cannot be trained on again"):
        recording(folder)


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert "is not the folder of a run: it has no config.toml and no rollouts" in refusal([tmp_path], capsys)
    assert "is not the folder of a run" in refusal([tmp_path / "nowhere"], capsys)


def test_a_run_that_still_writes_is_refused(folder, capsys):
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "still being written" in refusal([folder], capsys)
    RecordedRun.at(folder)


def test_a_lost_base_model_is_named_and_may_be_given(folder, tmp_path, capsys):
    (folder / "base_model").rmdir()
    assert "give it as --model.path" in refusal([folder, "--dry-run"], capsys)
    assert replay_request(folder, False, {"model": {"path": str(tmp_path)}}).config.model.path == str(tmp_path)


def test_the_run_itself_is_not_moved_aside(folder, capsys):
    assert "take another name" in refusal([folder, "--run.name", "run"], capsys)


def test_a_check_of_what_cannot_be_equal_is_refused(folder, capsys):
    said = refusal([folder, "--check", "--objective.clipping", "null"], capsys)
    assert "objective.clipping" in said
    (folder / "metrics.jsonl").unlink()
    assert "no losses to compare" in refusal([folder, "--check"], capsys)


def test_help_imports_nothing_heavy():
    ended = command("unisd_rl.replay", "--help")
    assert (ended.code, ended.heavy) == (0, frozenset())


def test_a_dry_run_says_what_the_ledger_holds_what_is_compared_and_which_process_it_needs(folder):
    save_tokenizer(folder / "base_model")
    save_model(folder / "base_model", tied=True)
    check_origin(folder, model_origin(folder / "base_model"), folder / "base_model")
    ended = dry_run("unisd_rl.replay", folder)
    assert ended.code == 0, ended.errors
    assert f"replay {folder} -> {folder}-replay, from the model {folder}/base_model" in ended.output
    assert "the ledger holds 3 of 3 steps whole, 11 rollouts in batches of 4" in ended.output
    assert "losses of 3 steps are compared with the run's, bit for bit" in ended.output
    assert "  divergence (" in ended.output
    assert "1 x learner rank: 1 CPU" in ended.output
    (folder / "base_model" / "model.safetensors").write_bytes(b"others")
    changed = dry_run("unisd_rl.replay", folder, "--learner.ranks", "2", "--run.steps", "2").output
    assert "2 of 2 steps whole, 7 rollouts" in changed
    assert "not compared" in changed
    assert "learner.ranks, run.steps, the weights of the model changed" in changed


def test_a_dry_run_refuses_what_the_replay_would(folder):
    write_lines(folder / "quarantined.jsonl", [])
    save_tokenizer(folder / "base_model")
    save_model(folder / "base_model", tied=True)
    (folder / "rollouts" / "index" / "00000003.jsonl").unlink()
    ended = dry_run("unisd_rl.replay", folder)
    assert (ended.code, ended.output) == (2, "")
    assert "1 of its 4 prompts are not there, 2 first; there is nothing to train on" in ended.errors


@pytest.mark.parametrize("name", UNREAD)
def test_a_field_that_a_replay_does_not_read_is_refused(name, folder):
    with pytest.raises(UserError, match=f"^--{name} does not apply to a replay"):
        replay_request(folder, False, nested(name, 1))


def test_a_field_of_a_section_that_a_replay_does_not_read_is_refused(folder, capsys):
    assert "--evaluation.* does not apply to a replay" in refusal([folder, "--evaluation.every", "2"], capsys)


def test_losses_are_of_the_steps_that_count_and_a_line_cut_short_does_not_count(folder):
    # Lineage 1 began again at step 1 and died after it; step 2 of lineage 0 is of no version that was kept.
    lines = [{"step": step, "loss": 0.1 * step, "lineage": 0} for step in range(3)]
    lines.append({"step": 1, "loss": 7.0, "lineage": 1})
    write_lines(folder / "metrics.jsonl", lines)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    write_lines(folder / "lineages.jsonl", [{"lineage": 1, "step": 1, "steps_lost": 2}])
    run = RecordedRun.at(folder)
    assert run.losses() == {0: 0.0, 1: 7.0}
    assert [run.lineage_of(step) for step in range(3)] == [0, 1, 1]


def test_a_setting_that_losses_depend_on_is_named_and_no_other(folder):
    def changed(**fields):
        return changed_settings(RecordedRun.at(folder).original, RecordedRun.at(folder).config(fields))

    assert changed() == ()
    assert changed(run={"name": "b", "step_timeout_s": 1.0}, rollout={"actors": 3}, learner={"cores": [0]}) == ()
    assert changed(learner={"ranks": 2}, run={"steps": 9}) == ("learner.ranks", "run.steps")
    assert changed(objective={"clipping": None}) != ()


def test_a_run_from_before_there_were_trees_is_read_packed_as_it_was(folder):
    run, file = RecordedRun.at(folder), folder / "config.toml"
    assert run.original.learner.layout == "tree"
    file.write_text(file.read_text().replace('layout = "tree"\n', ""))
    assert run.original.learner.layout == run.config({}).learner.layout == "packed"
    fields = {"learner": {"layout": "tree"}}
    assert changed_settings(run.original, run.config(fields)) == ("learner.layout",)
    file.write_text(file.read_text().replace("[learner]\n", '[learner]\nlayout = "padded"\n'))
    assert run.original.learner.layout == "padded"


def test_where_settings_changed_no_gap_of_log_probs_ends_the_replay(folder):
    tolerance = [
        replay_request(folder, False, fields).config.logprob_tolerance
        for fields in ({}, {"learner": {"ranks": 2}}, {"learner": {"ranks": 2, "logprob_tolerance": 0.5}})
    ]
    assert tolerance == [0.005, 1e9, 0.5]


def test_weights_that_are_not_those_the_run_began_with_are_refused_or_named_as_changed(folder):
    model = folder / "base_model"
    (model / "model.safetensors").write_bytes(b"weights")
    check_origin(folder, model_origin(model), model)
    compared, tried = (replay_request(folder, check, {}) for check in (True, False))
    assert other_weights(compared, model) == other_weights(tried, model) == ()
    (model / "model.safetensors").write_bytes(b"Weights")
    assert other_weights(tried, model) == ("the weights of the model",)
    with pytest.raises(UserError, match=rf"the weights of {model} are not those that {folder} began with"):
        other_weights(compared, model)
