import pytest

from tests.fakes.rollout_rows import rollout
from unisd_rl.types import Rollout


@pytest.fixture
def policy_row() -> Rollout:
    return rollout(3, versions=(0, 0, 1))
