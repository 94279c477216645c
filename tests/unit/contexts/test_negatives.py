"""Negatives: whatever proposes them, only a verified wrong one is used, and the rest is counted."""

import ast
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisd_rl.config.contexts import (
    CorruptionNegative,
    GeneratedNegative,
    PerturbationNegative,
    ProgramMutationsNegative,
    TaskNegative,
)
from unisd_rl.contexts.negatives import (
    GeneratedCandidates,
    PerExampleCandidates,
    VerifiedNegative,
    mistake_request,
    perturbed_candidates,
    plausible,
    verified_negatives,
)
from unisd_rl.contexts.views import negative_candidates
from unisd_rl.tasks.arithmetic import Arithmetic, stated_integer
from unisd_rl.tasks.corruption import Corruption
from unisd_rl.tasks.perturbation import WORDS, near_numbers
from unisd_rl.tasks.program_mutations import mutated_programs, mutations_by_kind
from unisd_rl.tasks.task import grade_all
from unisd_rl.types import Example, Message

TASK = Arithmetic(200, 20, seed=0)
CITY = Example("c", "Louvre?\nOptions:\nA. Rome\nB. Paris\nC. Bonn", "Paris has it, not Rome.\nAnswer: B", "B. Paris")
PROGRAM = '''def clip(values, low, high):
    """Keep what lies between."""
    if not values:
        return []
    kept = []
    for place in range(len(values)):
        if values[place] >= low and values[place] < high:  # half open
            kept.append(values[place])
    return kept + [0]
'''


def grade_letters(pairs):
    """Right if the text ends with the letter of the answer."""
    return [text.endswith(example.answer[0]) for text, example in pairs]


def proposals(*texts):
    return PerExampleCandidates(lambda example: iter(texts))


def test_the_first_candidate_that_is_graded_wrong_is_used_and_the_others_are_counted():
    tried = proposals("Answer: B", CITY.demonstration, "", "Answer: B", "no letter", "Answer: C", "Answer: A")
    assert verified_negatives([CITY], tried, grade_letters, 8) == (
        VerifiedNegative("Answer: C", right=1, implausible=4),
    )


def test_attempts_are_bounded_and_a_problem_without_a_wrong_one_has_none():
    tried = proposals("Answer: B", "So B", "Answer: A")
    assert verified_negatives([CITY], tried, grade_letters, 2) == (VerifiedNegative(None, right=1, implausible=1),)
    assert verified_negatives([CITY], proposals(), grade_letters, 8) == (VerifiedNegative(),)


def test_only_problems_without_one_are_asked_again_and_all_are_graded_together():
    asked, graded = [], []

    class Rounds:
        def propose(self, examples, attempt):
            asked.append([one.id for one in examples])
            return [f"Answer: {'B' if one.id == 'late' and attempt == 0 else 'C'}" for one in examples]

    def grade(pairs):
        graded.append(len(pairs))
        return grade_letters(pairs)

    late = Example("late", CITY.question, CITY.demonstration, CITY.answer)
    found = verified_negatives([CITY, late], Rounds(), grade, 4)
    assert (asked, graded) == ([["c", "late"], ["late"]], [2, 1])
    assert found == (VerifiedNegative("Answer: C"), VerifiedNegative("Answer: C", right=1))


@pytest.mark.parametrize("config", [TaskNegative(), CorruptionNegative(), PerturbationNegative()], ids=lambda c: c.type)
def test_negatives_of_arithmetic_are_wrong_by_its_own_grader_and_state_another_number(config):
    proposed = negative_candidates(config, TASK, 3, no_writer)
    found = verified_negatives(TASK.train, proposed, partial(grade_all, TASK), config.attempts)
    assert found == verified_negatives(TASK.train, proposed, partial(grade_all, TASK), config.attempts)
    assert sum(one.text is not None for one in found) >= 0.95 * len(TASK.train)
    for example, one in zip(TASK.train, found, strict=True):
        if one.text is not None:
            assert not TASK.grade(one.text, example)
            assert one.text != example.demonstration
            assert stated_integer(one.text) != int(example.answer)


def test_a_task_without_programs_has_no_bugs():
    found = verified_negatives(
        TASK.train[:5], negative_candidates(ProgramMutationsNegative(), TASK, 0, no_writer), partial(grade_all, TASK), 8
    )
    assert found == (VerifiedNegative(),) * 5


def no_writer(chats, name):
    raise AssertionError("nothing is written by the model")


def test_corruption_exchanges_the_options_and_the_letter_throughout():
    found = set(Corruption([CITY], seed=0).candidates(CITY))
    assert found == {"Rome has it, not Paris.\nAnswer: A", "Bonn has it, not Rome.\nAnswer: C"}


def test_corruption_replaces_a_number_wherever_it_is_the_answer_and_keeps_other_numbers():
    example = Example("n", "q", "3 and 4 make 12, not 120.\nAnswer: 12", "12")
    for text in Corruption([example], seed=0).candidates(example):
        number = text.rpartition(" ")[2]
        assert text == f"3 and 4 make {number}, not 120.\nAnswer: {number}"
        assert number != "12"


def test_corruption_of_other_answers_borrows_from_other_problems():
    pool = [Example(str(n), f"q{n}", f"it is {word}", word) for n, word in enumerate(["red", "green", "blue"])]
    assert set(Corruption(pool, seed=0).candidates(pool[0])) <= {"it is green", "it is blue"}
    assert list(Corruption(pool, seed=0).candidates(Example("x", "q", "nothing of it", "grey"))) == []


@given(st.integers(-50, 10**6), st.integers(0, 3), st.randoms(use_true_random=False))
def test_near_numbers_differ_and_keep_their_places(value, places, draw):
    text = f"{value / 10**places:.{places}f}"
    near = list(near_numbers(text, draw))
    assert len(set(near)) == len(near) >= 3
    for other in near:
        assert float(other) != float(text)
        assert len(other.partition(".")[2]) == places


def test_each_kind_of_bug_is_planted_in_one_place_and_the_rest_stays_byte_for_byte():
    kinds = mutations_by_kind(ast.parse(PROGRAM), PROGRAM)
    changed = {
        kind: {(PROGRAM.encode()[b.start : b.end].decode(), b.text) for b in bugs} for kind, bugs in kinds.items()
    }
    assert changed["off by one"] == {("len(values)", "len(values) - 1"), ("len(values)", "len(values) + 1")}
    assert changed["wrong operator"] == {(">=", ">"), ("<", "<="), ("and", "or"), ("+", "-")}
    assert changed["missing edge case"] == {("not values", "False")}
    assert changed["wrong return"] == {("[]", "None"), ("kept + [0]", "kept + [0] + 1"), ("kept + [0]", "kept")}


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_bugs_are_python_different_from_the_program_distinct_and_follow_the_seed(seed):
    found = list(mutated_programs(PROGRAM, seed))
    assert found == list(mutated_programs(PROGRAM, seed))
    assert len(set(found)) == len(found) == 10
    assert all(ast.parse(text) and text != PROGRAM and "# half open" in text for text in found)


def test_no_python_has_no_bugs():
    assert list(mutated_programs("def f(:", 0)) == []
    assert list(mutated_programs("just words", 0)) == []


def test_perturbed_texts_differ_in_words_of_the_table_numbers_and_negations_alone():
    example = Example("0", "q", "Ice is solid, so it is colder: 12 degrees, not many.\nAnswer: 12", "12")
    texts = list(perturbed_candidates(example, 0))
    assert texts == list(perturbed_candidates(example, 0)) != list(perturbed_candidates(example, 1))
    assert len(set(texts)) == len(texts) > 10
    assert example.demonstration not in texts
    assert any("is not solid" in text for text in texts)
    assert any("liquid" in text for text in texts)
    assert {stated_integer(text) for text in texts} > {11, 12, 13}
    assert all(word in WORDS[other] for word in WORDS for other in WORDS[word])


def test_a_written_negative_is_asked_for_one_mistake_after_the_other():
    requests = [mistake_request(CITY, number, 0) for number in range(4)]
    assert {"answer A" in request for request in requests[:2]} == {True, False}
    assert not any("answer B" in request for request in requests)
    assert requests[0] == requests[2]
    code = Example("p", "q", f"```python\n{PROGRAM}```", "{}")
    assert len({mistake_request(code, attempt, 0) for attempt in range(4)}) == 4


def test_what_the_model_writes_is_asked_for_with_the_whole_prompt_and_what_was_cut_is_discarded():
    asked = []

    def write(chats, name):
        asked.extend(chats)
        return [None, " Answer: C \n"][len(asked) - 1 :][:1]

    proposed = GeneratedCandidates(lambda example: (Message("user", example.question),), write, seed=0)
    found = verified_negatives([CITY], proposed, grade_letters, 4)
    assert found == (VerifiedNegative("Answer: C", implausible=1),)
    requested, bare = (chat[-1].content for chat in asked)
    assert requested == f"{mistake_request(CITY, 0, 0)}\n\n---\n\n{CITY.question}"
    assert bare == CITY.question  # what the model gets wrong by itself counts as well


def test_the_gold_rationale_with_another_answer_is_not_plausible():
    gold = Example("c", CITY.question, "The Louvre is on the Seine.\nAnswer: B", CITY.answer)
    assert not plausible("The  louvre is on the Seine.\nAnswer: C", gold)
    assert plausible("The Louvre is not on the Seine.\nAnswer: C", gold)
    assert plausible("Answer: C", Example("c", CITY.question, "So.\nAnswer: B", CITY.answer))  # too short to tell


def test_a_text_without_an_answer_of_its_kind_is_not_plausible():
    code = Example("p", "q", f"```python\n{PROGRAM}```", "{}")
    calls = Example("t", "q", "...", '[{"name": "find", "arguments": {}}]')
    assert not plausible("I do not know", TASK.train[0])
    assert not plausible("Answer: none", TASK.train[0])
    assert not plausible("```python\ndef f(:\n```", code)
    assert plausible("```python\ndef f():\n    return 1\n```", code)
    assert not plausible("no call", calls)
    assert GeneratedNegative(type="generated").attempts == 4
