"""Answers and a group of actors by hand, for tests of what is done with them."""

from contextlib import contextmanager

import numpy as np

from actors.rollout_actor import ChatAnswer
from unisd_rl.evaluation.evaluate import Evaluation
from unisd_rl.types import Answer, Generation, PolicyVersion

VERSION = PolicyVersion(0, -1)


def generation(tokens=(5, 6), finish_reason="stop") -> Generation:
    ids = np.asarray(tokens, np.int32)
    return Generation(
        ids, np.full(len(ids), -0.5, np.float32), np.zeros_like(ids), np.full_like(ids, -1), finish_reason
    )


def answer(name: str, correct: bool, sample: int = 0, tokens=(5, 6), finish_reason="stop") -> Answer:
    prompt = np.arange(3, dtype=np.int32)
    return Answer(name, sample, prompt, f"text of {name}", generation(tokens, finish_reason), "ref", correct)


def evaluation(grades, samples: int = 1) -> Evaluation:
    """`grades[p]`: right or wrong, or one such a sample."""
    rows = [grade if samples > 1 else (grade,) for grade in grades]
    answers = [answer(f"p{p}", bool(g), s) for p, row in enumerate(rows) for s, g in enumerate(row)]
    return Evaluation(VERSION, samples, tuple(answers), 1.0)


class FakeGroup:
    """Answers each chat with its own words, and remembers how it was asked."""

    def __init__(self, serving: int = 1, likeliest: str = "") -> None:
        """`likeliest`: the text of every choice; the first one without."""
        self.calls: list[tuple[list[str], object, PolicyVersion]] = []
        self.serving, self.examining, self.likeliest = serving, False, likeliest
        self.asked: list[tuple[tuple[str, ...], PolicyVersion]] = []

    @contextmanager
    def leases_paused(self):
        self.examining = True
        yield
        self.examining = False

    def answers(self, prompts, sampling, version, on_wait):
        assert self.examining, "leases would be taken between two slices"
        texts = [messages[-1].content for messages in prompts]
        self.calls.append((texts, sampling, version))
        return [ChatAnswer(np.arange(2, dtype=np.int32), f"said: {text}", generation()) for text in texts]

    def choices(self, requests, version, on_wait):
        assert self.examining, "leases would be taken between two slices"
        self.asked += [(request.texts, version) for request in requests]
        return [self.likeliest or request.texts[0] for request in requests]
