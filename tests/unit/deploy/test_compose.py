"""docker-compose.yml holds what a cluster on one machine needs."""

import importlib.resources
import json
import re
import shutil
import subprocess

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.fakes.deployment import COMPOSE, ROOT, compose, interpolated, service_command
from unisd_rl.config.load import load_recipe

SERVICES = compose({})["services"]
NODES = [name for name in SERVICES if not name.startswith("job")]
PROFILES = {"cpu": "", "gpu": "-gpu"}


def test_compose_accepts_the_file():
    schema = importlib.resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    validator = Draft202012Validator(json.loads(schema.read_text()))
    assert [error.message for error in validator.iter_errors(yaml.safe_load(COMPOSE.read_text()))] == []
    assert [error.message for error in validator.iter_errors(compose({}))] == []


def test_docker_accepts_the_file():
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, timeout=60).returncode:
        pytest.skip("this machine has no `docker compose`")
    for profile in PROFILES:
        done = subprocess.run(
            [docker, "compose", "--profile", profile, "config", "--quiet"],
            cwd=ROOT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_variables_are_filled_in_as_compose_does():
    assert interpolated("${A:-~/x} ${C:-d} ${D}", {}) == "~/x d "
    assert interpolated("${A:-~/x} ${C:-d} ${D}", {"A": "a", "C": "", "D": "e"}) == "a d e"


def test_a_plain_up_starts_the_cpu_half_and_each_half_is_whole():
    assert "COMPOSE_PROFILES=cpu" in (ROOT / ".env").read_text().splitlines()
    for profile, suffix in PROFILES.items():
        of_profile = {name for name, service in SERVICES.items() if service["profiles"] == [profile]}
        assert of_profile == {f"{role}{suffix}" for role in ("head", "learner", "rollout", "job")}
        for name in of_profile:
            assert SERVICES[name]["build"]["target"] == profile
            assert SERVICES[name]["image"].endswith(f":{profile}")


@pytest.mark.parametrize("name", NODES)
def test_nodes_are_told_apart_by_the_role_they_start_with_and_show_their_health(name):
    service = SERVICES[name]
    role = name.removesuffix("-gpu")
    assert service["command"] == ["deploy/node.sh", role, "--block"]
    asked = ["healthy", "head"] if role == "head" else ["healthy"]  # a head is healthy when it takes jobs
    assert service["healthcheck"]["test"] == ["CMD", "deploy/node.sh", *asked]
    assert service["restart"] == "on-failure"


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_limited_sees_the_shared_volume_and_has_the_token_from_a_secret(name):
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory", "pids"}
    assert service["volumes"] == ["shared:/shared"]
    assert service["secrets"] == ["ray_token"]
    assert service["environment"]["RAY_AUTH_MODE"] == "token"
    assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
    assert "privileged" not in service


def test_the_token_is_a_file_outside_of_the_repository():
    (secret,) = compose({})["secrets"].values()
    assert secret == {"file": "~/.ray/auth_token"}
    assert compose({"RAY_AUTH_TOKEN_PATH": "/x"})["secrets"]["ray_token"] == {"file": "/x"}


@pytest.mark.parametrize("suffix", PROFILES.values())
def test_rollout_nodes_can_be_multiplied_and_everything_waits_for_the_head_alone(suffix):
    """A job that waited for the other nodes too would not start under Podman where the head is up before them."""
    rollout = SERVICES[f"rollout{suffix}"]
    assert {"container_name", "ports", "hostname"} & set(rollout) == set()
    for role in ("rollout", "learner", "job"):
        assert SERVICES[role + suffix]["depends_on"] == {f"head{suffix}": {"condition": "service_healthy"}}


@pytest.mark.parametrize("suffix", PROFILES.values())
def test_every_container_finds_the_head_by_one_name(suffix):
    assert SERVICES[f"head{suffix}"]["networks"] == {"cluster": {"aliases": ["head"]}}
    assert SERVICES[f"rollout{suffix}"]["environment"]["UNISD_HEAD"] == "head"
    assert SERVICES[f"job{suffix}"]["environment"]["RAY_API_SERVER_ADDRESS"] == "http://head:8265"
    assert SERVICES[f"head{suffix}"]["ports"] == ["127.0.0.1:8265:8265"], "the dashboard is for this machine only"


@pytest.mark.parametrize("suffix", PROFILES.values())
def test_the_job_writes_to_the_shared_volume_and_asks_for_nodes_of_both_kinds(suffix):
    command = service_command(f"job{suffix}", {})
    assert command.argv == ("deploy/node.sh", "job")
    config = load_recipe(command.environment["UNISD_JOB"].split())
    assert str(config.run_dir).startswith("/shared/")
    assert config.rollout.resources == {"rollout": 1.0}
    assert config.learner.resources == {"learner": 1.0}
    assert SERVICES[f"job{suffix}"]["restart"] == "no"


def test_learner_and_rollouts_have_gpus_of_their_own():
    devices = {}
    for role in ("learner", "rollout"):
        service = SERVICES[f"{role}-gpu"]
        (reserved,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert reserved == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
        devices[role] = str(service["environment"]["CUDA_VISIBLE_DEVICES"])
    assert devices == {"learner": "0", "rollout": "1"}


@pytest.mark.parametrize("name", NODES)
def test_the_object_store_fits_into_the_shared_memory(name):
    size, unit = SERVICES[name]["shm_size"][:-2], SERVICES[name]["shm_size"][-2:]
    shared = int(size) * {"mb": 2**20, "gb": 2**30}[unit]
    assert int(SERVICES[name]["environment"]["UNISD_OBJECT_STORE"]) < shared


def test_every_variable_of_the_file_is_named_beside_it():
    said = (ROOT / ".env").read_text()
    for name in set(re.findall(r"\$\{(\w+)", COMPOSE.read_text())):
        role, _, rest = name.partition("_")
        pattern = f"#ROLLOUT_{rest}=" if role in ("HEAD", "LEARNER", "ROLLOUT") and rest != "DEVICES" else f"#{name}="
        assert pattern in said, name
