"""Shared by the integration tests: engines (one vLLM start for the tied model, one for the untied one), and actors with
their queue and store."""

import tempfile
from pathlib import Path

import pytest
import ray
from filelock import FileLock

from tests.fakes.engine_scenarios import ENGINES
from tests.fakes.engine_started import started
from tests.fakes.rollout_rig import Parts, config
from tests.fakes.tiny_chat_model import save_model, save_tokenizer


@pytest.fixture(scope="session")
def tied_model_path(tmp_path_factory):
    """Folder of a tiny random model whose output head shares the embedding's storage."""
    path = tmp_path_factory.mktemp("tied")
    save_tokenizer(path)
    save_model(path, tied=True)
    return path


@pytest.fixture(scope="session")
def untied_model_path(tmp_path_factory):
    """Folder of a tiny random model with an output head of its own."""
    path = tmp_path_factory.mktemp("untied")
    save_tokenizer(path)
    save_model(path, tied=False)
    return path


@pytest.fixture(scope="session", params=ENGINES)
def tied_engine(request, tied_model_path, tmp_path_factory):
    """The shared engine: each kind is started once for all tests (vLLM: about 15 s)."""
    yield from started(request.param, tied_model_path, tmp_path_factory.mktemp("tied_log"))


@pytest.fixture(scope="session", params=ENGINES)
def untied_engine(request, untied_model_path, tmp_path_factory):
    """The second start: untied heads go another way through vLLM's reload. The last test kills it."""
    yield from started(request.param, untied_model_path, tmp_path_factory.mktemp("untied_log"))


@pytest.fixture(scope="module")
def ray_start_turn():
    """For modules that run `ray start --head`: one at a time on this machine, as each head listens on the same port for
    Ray's clients."""
    with FileLock(Path(tempfile.gettempdir(), "unisd-rl-ray-start.lock"), timeout=1500.0):
        yield


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, which offers five cores."""
    ray.init(address="local", include_dashboard=False, num_cpus=5, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def parts(cluster, tied_model_path, tmp_path, request):
    """A group of one actor, or as the parameter says."""
    made = Parts(config(**getattr(request, "param", {})), tied_model_path, tmp_path)
    yield made
    made.group.close()
