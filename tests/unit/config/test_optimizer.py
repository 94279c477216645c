"""Where the optimiser's state lies and how many bits it has: what goes together, and what follows."""

import pytest

from unisd_rl.config.load import load_recipe
from unisd_rl.errors import UserError


def recipe(**sections):
    return load_recipe("unisd_star", sections)


@pytest.mark.parametrize(
    "learner,dtype,stage",
    [
        ({}, "float32", 0),
        ({}, "bfloat16", 1),
        ({"offload_optimizer": True}, "float32", 1),
        ({"offload_optimizer": True, "zero_stage": 3}, "bfloat16", 3),
        ({"optimizer": "adamw_8bit"}, "float32", 0),
    ],
)
def test_the_stage_that_is_run(learner, dtype, stage):
    assert recipe(learner=learner, model={"dtype": dtype}).zero_stage == stage


def test_moments_of_8_bits_are_not_offloaded():
    with pytest.raises(
        UserError, match=r"learner: optimizer = \"adamw_8bit\" and offload_optimizer = true: .*leave out"
    ):
        recipe(learner={"optimizer": "adamw_8bit", "offload_optimizer": True})
