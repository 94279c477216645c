from actors.process import actor_environment
from unisd_rl.config import Config


def config(**rollout):
    return Config.model_validate({"rollout": rollout, "objective": {"divergence": {}}})


def test_threads_are_as_many_as_cores(tmp_path):
    assert actor_environment(config(), (2, 3, 5), tmp_path)["OMP_NUM_THREADS"] == "3"


def test_without_a_plan_threads_are_left_to_the_system(tmp_path):
    assert "OMP_NUM_THREADS" not in actor_environment(config(), (), tmp_path)


def test_vllm_on_the_cpu_is_one_process_that_binds_nothing_itself(tmp_path):
    variables = actor_environment(config(), (0,), tmp_path)
    assert variables["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert variables["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_other_engines_and_gpus_get_no_cpu_settings_of_vllm(tmp_path):
    for other in (config(engine={"type": "transformers"}), config(gpus_per_actor=1)):
        assert not any(name.startswith("VLLM_CPU") for name in actor_environment(other, (0,), tmp_path))


def test_threads_that_wait_sleep_soon_where_the_learner_has_the_same_cores(tmp_path):
    apart = actor_environment(config(), (0, 1), tmp_path)
    turns = Config.model_validate({"run": {"placement": "colocated"}, "objective": {"divergence": {}}})
    colocated = actor_environment(turns, (0, 1), tmp_path)
    brief = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
    assert colocated == {**apart, **brief}
    assert not brief.keys() & apart.keys()


def test_a_model_in_a_folder_asks_no_hub(tmp_path):
    assert actor_environment(config(), (), tmp_path)["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in actor_environment(config(), (), tmp_path / "org" / "model")
