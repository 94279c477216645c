"""What holds for every test.

Searches of hypothesis try the same cases each time, so that a green commit stays green; `make test-all` lets them
look for new ones, and for six times as many (`--hypothesis-profile=searching`). No case has a time limit: how busy the
machine is proves nothing.
"""

import atexit
import gc
from functools import cache

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("searching", derandomize=False, deadline=None, max_examples=300)
settings.load_profile("repeatable")

gc.disable()  # till all tests are collected: it takes a quarter of the time of large imports, and finds nothing

LONG = (
    "test_every_option",
    "test_queue_model",
    "test_rolling_ledger",
    "test_every_combination",
    "test_objective_composition",
    "test_benchmarks",
    "test_sample_recorder",
    "test_layout",
)
"""Files of unit tests that take more than three seconds: they come first, so that no core waits for one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: (item.nodeid.startswith("tests/unit/"), item.path.stem not in LONG))


def pytest_collection_finish() -> None:
    """What was imported stays: the collector of garbage need not look through a million objects again and again."""
    gc.freeze()
    gc.enable()
    # As it was, after pytest's own last collections: types of Triton's that nothing collects are reported as leaked.
    atexit.register(gc.unfreeze)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `gpu` that is asked for where there is none says so instead of failing."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Side by side, a file's tests run in one process; so do those of all files that ask for dry runs: the server that
    `fakes/commands.py` starts for them imports transformers for seconds."""
    from xdist.scheduler import LoadFileScheduling

    @cache
    def asks_dry_runs(file: str) -> bool:
        text = (config.rootpath / file).read_text()
        return "fakes.commands import" in text and "dry_run" in text

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "dry runs" if asks_dry_runs(file) else file

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None
