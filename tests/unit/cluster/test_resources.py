"""Whether there is room for each process: the whole bundle on one node, never a sum over nodes."""

import os
from importlib.metadata import version
from pathlib import Path

import pytest

from unisd_rl.cluster.resources import (
    ClusterState,
    Node,
    Requirement,
    describe_cluster,
    describe_local,
    gpus_here,
    keep_compiler_caches,
    learner_bundle,
    missing,
    missing_to_compile,
    place,
    ray_options,
)
from unisd_rl.config.load import load_recipe

ACTORS = Requirement("rollout actor", 3, {"CPU": 1.0, "rollout": 1.0})
RANKS = Requirement("learner rank", 2, {"CPU": 1.0, "GPU": 1.0, "learner": 1.0})
QUEUE = Requirement("rollout queue", 1, {})
HEAD = Node("head", {"CPU": 0.0})
LEARNER = Node("learner", {"CPU": 8.0, "GPU": 2.0, "learner": 2.0})


def test_each_process_goes_to_a_node_that_has_all_it_asks_for():
    rollouts = [Node("a", {"CPU": 2.0, "rollout": 2.0}), Node("b", {"CPU": 2.0, "rollout": 2.0})]
    nodes = {
        placement.requirement.process: placement.nodes
        for placement in place([ACTORS, RANKS, QUEUE], [HEAD, LEARNER, *rollouts])
    }
    assert nodes == {"rollout actor": {"a": 2, "b": 1}, "learner rank": {"learner": 2}}


def test_enough_in_all_but_on_no_node_is_no_place():
    halves = [Node("a", {"CPU": 4.0}), Node("b", {"rollout": 4.0})]
    (placement,) = place([ACTORS], halves)
    assert placement.lacking == 3
    assert "no room for 3 of 3" in describe_cluster([ACTORS], ClusterState(tuple(halves), {"CPU": 4.0, "rollout": 4.0}))


def test_a_resource_is_given_once():
    both = Requirement("rollout actor", 2, {"CPU": 1.0}), Requirement("learner rank", 1, {"CPU": 1.0})
    assert [placement.lacking for placement in place(both, [Node("a", {"CPU": 2.0})])] == [0, 1]


def test_what_others_use_is_said():
    node = Node("a", {"CPU": 4.0, "rollout": 3.0})
    text = describe_cluster([ACTORS], ClusterState((node,), {"CPU": 4.0, "rollout": 1.0}))
    assert "the cluster (nodes: 1) can run every process:" in text
    assert "rollout actor: on a (3)" in text
    assert text.endswith("others use some of it now; free: 1 of 3 rollout")


def test_a_process_that_asks_for_nothing_is_not_told_a_place():
    assert "queue" not in describe_cluster([ACTORS, QUEUE], ClusterState((LEARNER,), {}))


def test_this_machine_without_the_gpus_asked_for_is_said(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus_here() == 0
    assert "lacks GPUs: 2 needed" in describe_local([RANKS])
    assert "can run every process" in describe_local([ACTORS, QUEUE])


def test_processes_that_share_cores_are_said():
    crowd = Requirement("rollout actor", 10_000, {"CPU": 1.0})
    assert "10000 processes that compute share the cores" in describe_local([crowd])


def test_what_a_cluster_lacks_is_named_with_both_numbers():
    needed = (Requirement("rollout actor", 2, {"CPU": 1.0, "GPU": 1.0}), Requirement("learner rank", 1, {"CPU": 1.0}))
    assert missing(needed, {"CPU": 3.0, "GPU": 1.0}) == {"GPU": (2.0, 1.0)}
    assert missing(needed, {"CPU": 3.0, "GPU": 2.0}) == {}


def test_a_rank_may_ask_for_more_cpus_and_for_custom_resources():
    config = load_recipe("unisd_star", {"learner": {"resources": {"CPU": 2, "rack": 1}, "gpus_per_rank": 1}})
    assert ray_options(learner_bundle(config)) == {"num_cpus": 2.0, "num_gpus": 1.0, "resources": {"rack": 1.0}}


def test_what_a_machine_lacks_to_compile_kernels_is_one_sentence_with_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "Python.h").touch()
    (tmp_path / "g++").touch(mode=0o755)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing_to_compile(str(tmp_path)) is None
    assert "/elsewhere/Python.h" in missing_to_compile("/elsewhere")
    assert "python3-dev" in missing_to_compile("/elsewhere")
    monkeypatch.setenv("PATH", "/elsewhere")
    assert missing_to_compile(str(tmp_path)).startswith("a C++ compiler (g++): not there")


CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "VLLM_CACHE_ROOT")


@pytest.fixture
def no_caches(monkeypatch):
    for name in CACHES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def test_what_compilers_make_is_kept_by_versions_where_the_user_may_write(tmp_path, monkeypatch, no_caches):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    keep_compiler_caches()
    assert os.environ["TRITON_CACHE_DIR"] == "/mine"
    for name in ("TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT"):
        folder = Path(os.environ[name]).parent
        assert folder.parent == tmp_path / "unisd-rl" / "compiled"
        assert f"torch-{version('torch')}" in folder.name
        assert folder.is_dir()


def test_a_cache_folder_that_cannot_be_made_ends_nothing(tmp_path, monkeypatch, no_caches):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_compiler_caches()
    folder = Path(os.environ["VLLM_CACHE_ROOT"]).parent
    assert folder.is_dir()
    folder.rmdir()
