"""deploy/cluster-aws.yaml: accepted by the schema that Ray's launcher checks it with."""

import json
from pathlib import Path

import ray
from jsonschema import Draft7Validator
from ray.autoscaler._private.util import fillout_defaults, validate_config

from tests.fakes.deployment import DEPLOY, ROOT, launcher


def test_rays_launcher_accepts_the_file():
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    assert [error.message for error in Draft7Validator(schema).iter_errors(launcher())] == []
    validate_config(fillout_defaults(launcher()))


def test_rollout_nodes_come_and_go_and_the_learner_stays():
    kinds = launcher()["available_node_types"]
    assert kinds["learner"]["min_workers"] == kinds["learner"]["max_workers"] == 1
    assert 1 <= kinds["rollout"]["min_workers"] < kinds["rollout"]["max_workers"]
    assert kinds["learner"]["resources"]["learner"] == kinds["rollout"]["resources"]["rollout"] == 1
    assert kinds[launcher()["head_node_type"]]["resources"] == {"CPU": 0}


def test_the_token_comes_from_outside_of_the_repository():
    assert launcher()["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}" in (DEPLOY / "node.sh").read_text()


def test_nodes_get_what_the_set_up_needs_and_not_the_whole_folder():
    sources = {source for source in launcher()["file_mounts"].values() if not source.startswith("~")}
    assert all((ROOT / source).exists() for source in sources)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert sources == packages | {"Makefile", "LICENSE", "README.md", "pyproject.toml", "locks", "deploy"}
