"""A resumed run trains what it trained, or is refused in one sentence."""

import math

import pytest

from unisd_rl.cli import split_resume
from unisd_rl.config.base import Decides, settings
from unisd_rl.config.load import RECIPES, load_recipe
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.errors import UserError
from unisd_rl.run import notes
from unisd_rl.storage.files import FolderLock
from unisd_rl.storage.recorded_run import resumed_config

CONFIG = load_recipe("unisd_star", {"run": {"steps": 7}})


@pytest.fixture
def ended(tmp_path):
    """The folder of a run that ended before its end."""
    directory = RunDirectory(tmp_path / "elsewhere" / "mine")
    directory.create(CONFIG)
    directory.close()
    return directory


def test_the_configuration_is_the_folders_own_wherever_it_lies(ended):
    config = resumed_config(ended.path, {})
    assert config.run_dir == ended.path
    assert config.model_copy(update={"run": CONFIG.run}) == CONFIG


def test_where_it_runs_may_change(ended):
    config = resumed_config(
        ended.path,
        {
            "rollout": {"actors": 3, "engine": {"kv_cache_gib": 2.0}},
            "learner": {"ranks": 2, "cores": [0, 1]},
            "faults": {"max_restarts": 0},
            "run": {"checkpoint_every": 1},
        },
    )
    assert (config.rollout.actors, config.learner.ranks, config.learner.cores) == (3, 2, (0, 1))
    assert (config.faults.max_restarts, config.run.checkpoint_every, config.run.steps) == (0, 1, 7)


MAY_CHANGE = [
    "alarms.copied_share",
    "alarms.entropy_fall",
    "alarms.length_factor",
    "alarms.mismatch_kl",
    "alarms.mismatch_p99",
    "alarms.repeated_share",
    "alarms.window",
    "contexts.cache",
    "contexts.max_dropped",
    "evaluation.concurrency",
    "evaluation.every",
    "faults.backoff_max_s",
    "faults.backoff_s",
    "faults.max_restarts",
    "faults.patience_s",
    "faults.ping_s",
    "faults.silent_s",
    "faults.stall_s",
    "faults.window_s",
    "learner.chunk_tokens",
    "learner.cores",
    "learner.gpus_per_rank",
    "learner.gradient_checkpointing",
    "learner.layout",
    "learner.logprob_tolerance",
    "learner.micro_batch_tokens",
    "learner.offload_optimizer",
    "learner.ranks",
    "learner.resources",
    "learner.scoring_tokens",
    "learner.zero_stage",
    "rollout.actors",
    "rollout.concurrency",
    "rollout.cores",
    "rollout.engine.gpu_memory_utilization",
    "rollout.engine.kv_cache_gib",
    "rollout.engine.tensor_parallel",
    "rollout.fsync",
    "rollout.gpus_per_actor",
    "rollout.keep",
    "rollout.lease_s",
    "rollout.max_attempts",
    "rollout.resources",
    "run.checkpoint_every",
    "run.cluster_timeout_s",
    "run.keep_checkpoints",
    "run.placement",
    "run.start_timeout_s",
    "run.step_timeout_s",
    "tracking.to",
    "weights.bucket_mib",
    "weights.checksum",
    "weights.timeout_s",
    "weights.transport",
]


def test_a_run_from_before_there_were_trees_goes_on_packed(ended):
    file = ended.path / "config.toml"
    assert resumed_config(ended.path, {}).learner.layout == "tree"
    file.write_text(file.read_text().replace('layout = "tree"\n', ""))
    assert resumed_config(ended.path, {}).learner.layout == "packed"
    assert resumed_config(ended.path, {"learner": {"layout": "tree"}}).learner.layout == "tree"


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_every_field_that_may_change_exists(recipe):
    fields = settings(load_recipe(recipe))
    may_change = (Decides.NOTHING, Decides.ROUNDING)
    assert sorted(name for name, field in fields.items() if field.decides in may_change) == MAY_CHANGE


def test_a_field_decides_what_its_section_does_unless_it_says_otherwise():
    lora = settings(load_recipe("unisd_star", {"model": {"lora": {}}}))["model.lora.rank"]
    fields = settings(CONFIG)
    assert lora.decides is Decides.LOSS
    assert fields["model.lora"].value is None
    assert fields["learner.weight_decay"].decides is Decides.LOSS
    assert fields["learner.zero_stage"].decides is Decides.ROUNDING
    assert fields["rollout.max_staleness"].decides is Decides.ROLLOUTS


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({"run": {"steps": 3}}, ["run.steps = 3", "has 7", "learning rate's schedule"]),
        ({"run": {"name": "other"}}, ["run.name", "'mine'"]),
        ({"learner": {"batch_size": 3}}, ["learner.batch_size = 3", "has 64"]),
        ({"rollout": {"max_staleness": 2}}, ["rollout.max_staleness = 2"]),
        (
            {"rollout": {"answers_per_prompt": 4}},
            ["rollout.answers_per_prompt = 4", "has 1", "it says what is trained"],
        ),
        ({"rollout": {"engine": {"type": "transformers"}}}, ["rollout.engine.type = 'transformers'", "'vllm'"]),
        ({"objective": {"ema": None}}, ["objective.ema"]),
        ({"model": {"lora": {"rank": 4}}}, ["model.lora"]),
        ({"task": {"type": "multiples"}, "model": {"path": "a/b"}}, ["model.path"]),
    ],
)
def test_what_would_train_something_else_is_refused_with_both_values(ended, overrides, names):
    with pytest.raises(UserError) as refused:
        resumed_config(ended.path, overrides)
    message = str(refused.value)
    assert "\n" not in message
    assert all(name in message for name in names), message


@pytest.mark.parametrize("change", [{"ranks": 2}, {"zero_stage": 2}])
def test_by_what_moments_of_8_bits_are_cut_may_not_change(tmp_path, change):
    directory = RunDirectory(tmp_path / "eight")
    directory.create(load_recipe("unisd_star", {"run": {"steps": 7}, "learner": {"optimizer": "adamw_8bit"}}))
    directory.close()
    (name,) = change
    with pytest.raises(
        UserError, match=rf"learner.{name} = 2: .*AdamW's moments of 8 bits are cut by it; leave it out"
    ):
        resumed_config(directory.path, {"learner": change})
    assert resumed_config(directory.path, {"learner": {"cores": [0]}}).learner.cores == (0,)


def test_a_value_that_is_the_same_is_no_change(ended):
    assert resumed_config(ended.path, {"run": {"steps": 7}}).run.steps == 7


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not the folder of a run"):
        resumed_config(tmp_path, {})


def test_a_run_that_is_alive_is_refused(ended):
    lock = FolderLock(ended.path)
    assert lock.acquire()
    with pytest.raises(UserError, match="is alive"):
        resumed_config(ended.path, {})
    lock.close()
    resumed_config(ended.path, {})


@pytest.mark.parametrize(("status", "resumes"), [("completed", False), ("interrupted", True), ("failed", True)])
def test_only_a_run_that_came_to_its_end_has_finished(ended, status, resumes):
    ended.write_summary({"status": status})
    if resumes:
        resumed_config(ended.path, {})
    else:
        with pytest.raises(UserError, match="has finished"):
            resumed_config(ended.path, {})


def test_a_run_is_prolonged_finished_or_not_and_its_config_says_how_long_it_was(ended):
    for status in ("interrupted", "completed"):
        ended.write_summary({"status": status})
        config = resumed_config(ended.path, {"run": {"steps": 20}})
        assert (config.run.total_steps, config.run.earlier_steps) == (20, (7,))
    ended.write_config(config)
    again = resumed_config(ended.path, {"run": {"steps": 50}})
    assert (again.run.total_steps, again.run.earlier_steps) == (50, (7, 20))


def test_prolonging_changes_nothing_else_that_is_trained(ended):
    with pytest.raises(UserError, match=r"learner\.learning_rate"):
        resumed_config(ended.path, {"run": {"steps": 20}, "learner": {"learning_rate": 1.0}})
    with pytest.raises(UserError, match=r"run\.steps = 3: .* has 7, and .* can only be prolonged"):
        resumed_config(ended.path, {"run": {"steps": 3}})


def test_a_step_keeps_the_schedule_of_the_length_it_was_taken_under():
    run = CONFIG.run.prolonged(20).prolonged(50)
    assert [run.schedule_steps(step) for step in (0, 6, 7, 19, 20, 49)] == [7, 7, 20, 20, 50, 50]
    assert CONFIG.run.schedule_steps(3) == 7


def test_a_run_that_is_prolonged_says_where_its_learning_rate_goes_on():
    run = CONFIG.run.prolonged(20)
    (said,) = [note for note in notes(CONFIG.model_copy(update={"run": run})) if "prolonged" in note]
    # peak 2e-4, a tenth of warm-up: the last of 7 steps is 5/6 through its cosine, and the eighth of 20 is 5/18
    last, first = (1e-4 * (1 + math.cos(math.pi * done)) for done in (5 / 6, 5 / 18))
    assert f"with {last:.2g} in step 7, and goes on by that of 20 with {first:.2g} in step 8" in said


def test_lengths_that_do_not_grow_are_refused():
    with pytest.raises(UserError, match="a run only grows"):
        load_recipe("ema", {"run": {"steps": 7, "earlier_steps": [7]}})


@pytest.mark.parametrize("words", [["--resume", "a b", "--x", "1"], ["--x", "1", "--resume=a b"]])
def test_the_folder_may_stand_anywhere(words):
    folder, others = split_resume(words)
    assert (str(folder), others) == ("a b", ["--x", "1"])


@pytest.mark.parametrize("words", [["--resume"], ["--resume", "--dry-run"], ["--resume="]])
def test_resume_without_a_folder_is_refused(words):
    with pytest.raises(UserError, match="needs the folder"):
        split_resume(words)
