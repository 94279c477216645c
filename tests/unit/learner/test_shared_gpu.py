"""What a learner rank gives back to a GPU that it shares; nothing is computed."""

import numpy as np
import pytest
import torch

from learner.rank_process import RankProcess
from unisd_rl.config.load import load_recipe
from unisd_rl.storage.timeline import Track

SHARED = {"run": {"placement": "colocated"}, "rollout": {"gpus_per_actor": 0.5}, "learner": {"gpus_per_rank": 0.5}}


class Learner:
    """Notes what it computes."""

    def __init__(self, said):
        self._said = said
        self.timer = type("Timer", (), {"spans": ()})

    def __getattr__(self, name):
        return lambda *_, **__: self._said.append(name)


@pytest.mark.parametrize(("sections", "given_back"), [(SHARED, ["freed"]), ({}, [])], ids=["shared", "own"])
def test_cached_blocks_go_back_after_whatever_was_computed_before_the_engines_turn(
    sections, given_back, tmp_path, monkeypatch
):
    said, nothing = [], np.empty(0, np.int32)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: said.append("freed"))
    rank = object.__new__(RankProcess)  # without a process group
    rank._config, rank._rank, rank._learner = load_recipe("unisd_star", sections), 0, Learner(said)
    rank._track = Track(tmp_path, "learner-0")
    rank.step(b"", 0, 0)
    rank.logprobs(nothing, nothing)
    rank.load(tmp_path, 1)
    rank.save(tmp_path, None)
    computed = ("step", "logprobs", "load", "save")
    assert said == [what for name in computed for what in (name, *given_back)]
