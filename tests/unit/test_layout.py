"""Where the heavy parts may be imported, and that every module has its place among the layers.

import-linter (pyproject.toml) checks directions; it cannot say "only in these files". An import inside
a function or under TYPE_CHECKING counts too: what it names is what the file knows.
"""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("unisd_rl", "actors", "learner")

ALLOWED = {
    "bitsandbytes": {"learner/optimizer.py"},
    "deepspeed": {"learner/deepspeed_import.py"},
    "peft": {"unisd_rl/models/peft_import.py"},
    "ray": {
        "unisd_rl/cluster/ray_cluster.py",
        "unisd_rl/cluster/ray_runtime.py",
        "unisd_rl/tracking/prometheus.py",
    },
    "vllm": {
        "actors/engines/vllm_engine.py",
        "unisd_rl/transport/weights/adapter_extension.py",
        "unisd_rl/transport/weights/object_store_engine.py",
        "unisd_rl/transport/weights/adapter_loader.py",
        "unisd_rl/transport/weights/object_store.py",
        "unisd_rl/transport/weights/transport.py",
        "unisd_rl/transport/weights/vllm_trainer.py",
    },
}


@cache
def parsed(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text())


@cache
def walked(path: Path) -> tuple[ast.AST, ...]:
    """Every node of it."""
    return tuple(ast.walk(parsed(path)))


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, wherever in the file."""
    names = set()
    for node in walked(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def files_that_import(library: str) -> set[str]:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {str(path.relative_to(ROOT)) for path in paths if library in imported(path)}


@pytest.mark.parametrize("library", ALLOWED)
def test_a_heavy_library_is_imported_in_the_named_files_only(library):
    assert files_that_import(library) == ALLOWED[library]


def test_every_wait_for_ray_has_a_timeout():
    calls = [
        (path, node)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in walked(path)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func) in ("ray.get", "ray.wait")
    ]
    assert calls
    without = [(path.name, call.lineno) for path, call in calls if "timeout" not in {key.arg for key in call.keywords}]
    assert without == []


def test_every_module_has_its_place_among_the_layers():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    placed = {name.strip() for layer in layers for name in layer.split("|")}
    present = {f"unisd_rl.{path.stem}" for path in (ROOT / "unisd_rl").glob("*.py") if path.stem != "__init__"}
    present |= {f"unisd_rl.{path.parent.name}" for path in (ROOT / "unisd_rl").glob("*/__init__.py")}
    assert placed - set(PACKAGES) == present


def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports_of(name: str, present: dict[str, Path], at_start: bool = False) -> set[str]:
    """The product's modules that this one imports anywhere in its file, or where it is imported itself (`at_start`);
    `from a import b` may name the module `a.b`."""
    found = set()
    for node in parsed(present[name]).body if at_start else walked(present[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            module = node.module or ""
            found |= {
                f"{module}.{alias.name}" if f"{module}.{alias.name}" in present else module for alias in node.names
            }
    return found & present.keys() - {name}


def test_the_objective_knows_of_this_project_only_its_own_configuration_metrics_and_errors():
    present, allowed = modules(), {"unisd_rl.config.objective", "unisd_rl.metrics", "unisd_rl.errors"}
    own = {name for name in present if name.startswith("unisd_rl.objective")}
    assert own
    assert {found for name in own for found in imports_of(name, present)} - own <= allowed


def test_a_learner_outside_a_cluster_needs_neither_ray_nor_vllm():
    """A benchmark of steps, or a debugger, takes `learner.learner` alone."""
    assert engines_imported_by("learner.learner") == set()


def test_the_loop_needs_neither_ray_nor_vllm_before_it_knows_what_carries_its_processes():
    """`run.placement` in_process goes without Ray."""
    assert engines_imported_by("unisd_rl.train") == set()


def engines_imported_by(start: str) -> set[tuple[str, str]]:
    """(Module, line) for each import of Ray or vLLM that happens when the module `start` is imported."""
    present, found, new = modules(), set(), {start}
    while new:
        found |= new
        new = {one for name in new for one in imports_of(name, present, at_start=True)} - found
    lines = {
        (name, ast.unparse(node))
        for name in found
        for node in parsed(present[name]).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return {line for line in lines if re.match(r"(import|from) (ray|vllm)\b", line[1])}


def test_no_import_circle_exists_between_files():
    """A contract of layers does not see circles between files of one layer. What is left when all files that import
    nothing unresolved are taken away, again and again, is a circle and what leads to it."""
    present = modules()
    graph = {name: imports_of(name, present) for name in present}
    while resolved := {name for name, needs in graph.items() if not needs}:
        graph = {name: needs - resolved for name, needs in graph.items() if name not in resolved}
    assert graph == {}


def test_no_file_is_named_like_a_library_on_a_folder_that_is_put_on_the_path():
    # torch.compile inside vLLM imports z3 and others by name; a file of ours of that name would be picked up.
    on_path = [ROOT]
    libraries = {"z3", "queue", "types", "torch", "ray", "vllm", "numpy", "logging"}
    assert [path for folder in on_path for path in folder.glob("*.py") if path.stem in libraries] == []


def test_only_the_builder_asks_which_engine_a_configuration_names():
    asks = {"actors/engines/build.py", "actors/engines/vllm_engine.py", "unisd_rl/config/rollout.py"}
    found = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if {"TransformersEngine", "VllmEngine"} & {node.id for node in walked(path) if isinstance(node, ast.Name)}
    }
    assert found == asks
