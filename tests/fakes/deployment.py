"""The deployment files as their own programs read them: what runs, and in which environment."""

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """`${NAME}` and `${NAME:-default}` replaced as Compose does; a default holds no variable."""
    return _VARIABLE.sub(lambda found: variables.get(found[1]) or found[2] or "", text)


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """docker-compose.yml with its variables filled in."""
    return yaml.safe_load(interpolated(COMPOSE.read_text(), variables))


@dataclass(frozen=True)
class Command:
    """What a container runs."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


def service_command(name: str, variables: Mapping[str, str]) -> Command:
    """The command of a service of docker-compose.yml."""
    service = compose(variables)["services"][name]
    return Command(tuple(service["command"]), {key: str(value) for key, value in service["environment"].items()})


def health_command(name: str, variables: Mapping[str, str]) -> Command:
    """What Compose runs in a service's container to see whether it is healthy."""
    service = compose(variables)["services"][name]
    kind, *words = service["healthcheck"]["test"]
    assert kind == "CMD"
    return Command(tuple(words), service_command(name, variables).environment)


def manifest(path: str) -> dict[str, Any]:
    """One object below deploy/kubernetes."""
    return yaml.safe_load((KUBERNETES / path).read_text())


def kuberay_start(cluster: Mapping[str, Any], group: str, head: str) -> str:
    """The shell command by which KubeRay starts a node of a group (`head`, or a worker group's name).

    KubeRay: rayStartParams become `--key=value`, unquoted, in a shell command; it adds --block and the head's address.
    """
    if group == "head":
        start, parameters = "ray start --head", cluster["headGroupSpec"]["rayStartParams"]
    else:
        (spec,) = [spec for spec in cluster["workerGroupSpecs"] if spec["groupName"] == group]
        start, parameters = f"ray start --address={head}", spec["rayStartParams"]
    return " ".join([start, "--block", *(f"--{key}={value}" for key, value in parameters.items())])


def launcher() -> dict[str, Any]:
    """deploy/cluster-aws.yaml."""
    return yaml.safe_load((DEPLOY / "cluster-aws.yaml").read_text())


def console_blocks(section: str) -> list[str]:
    """The commands of deploy/README.md below the heading that starts so, block by block."""
    text = (DEPLOY / "README.md").read_text()
    (body,) = [part for part in re.split(r"^## ", text, flags=re.MULTILINE) if part.startswith(section)]
    return re.findall(r"```console\n(.*?)```", body, flags=re.DOTALL)


def checker(name: str) -> str:
    """Where a program is that a dev package brings."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, f"{name} comes with the dev packages: make setup"
    return found
