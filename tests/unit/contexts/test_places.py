"""A problem's contexts are its own, whatever its id: no problem is shown another's answer."""

import pytest

from tests.fakes.prepared import prepared_stream
from unisd_rl.config import Config
from unisd_rl.config.contexts import (
    ContextsConfig,
    CorruptionNegative,
    RandomAuxiliary,
    RetrievalAuxiliary,
    TaskNegative,
)
from unisd_rl.config.objective import JensenShannon, LogprobContrast, ObjectiveConfig, TokenAgreement
from unisd_rl.contexts.leakage import contains_answer
from unisd_rl.tasks.records import Records
from unisd_rl.types import Example, ViewKind

ANSWERS = ("yes", "no")
PAIRS = [
    Example(f"article {n // 2}", f"Question {n}?", f"By part {n}.\nAnswer: {ANSWERS[n % 2]}", ANSWERS[n % 2])
    for n in range(52)
]
"""Two questions to an article, one answered yes and one no, as a data set keyed by its articles has them."""
OBJECTIVE = ObjectiveConfig(divergence=JensenShannon(), agreement=TokenAgreement(), contrastive=LogprobContrast())


@pytest.mark.parametrize("auxiliary", [RandomAuxiliary(views=2), RetrievalAuxiliary(views=2)])
@pytest.mark.parametrize("negative", [TaskNegative(), CorruptionNegative()])
def test_no_view_of_a_problem_holds_the_contexts_of_another_with_the_same_id(auxiliary, negative):
    contexts = ContextsConfig(auxiliary=auxiliary, negative=negative)
    task = Records(PAIRS[:44], PAIRS[44:])
    stream = prepared_stream(Config(contexts=contexts, objective=OBJECTIVE), task)
    by_question = {example.question: example for example in task.train}
    shown = 0
    for number in range(len(stream)):
        prompt = stream.prompt(number).prompt
        question = prompt.messages[-1].content
        example = by_question[question]
        for view in prompt.views:
            rest = view.messages[-1].content.replace(question, "")
            if view.kind is ViewKind.NEGATIVE:
                demonstration = rest.partition("Worked response:\n")[2].partition("\n\nNow give")[0]
                assert not task.grade(demonstration, example), (example, demonstration)
                shown += 1
            elif view.kind is ViewKind.AUXILIARY:
                assert not contains_answer(rest, example), (example, rest)
                shown += 1
    assert shown == 3 * 44
