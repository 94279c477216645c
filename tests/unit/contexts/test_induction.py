"""Instructions: from disjoint groups, each once, none that tells an answer."""

from dataclasses import replace

import pytest

from unisd_rl.contexts.induction import (
    Instruction,
    InstructionContexts,
    demonstration_groups,
    distinct_instructions,
    instruction_request,
)
from unisd_rl.contexts.leakage import contains_answer
from unisd_rl.errors import UserError
from unisd_rl.tasks.source_records import print_once
from unisd_rl.types import Example

POOL = [Example(str(n), f"question {n}", f"work {n}", f"answer {n}") for n in range(12)]
WRITTEN = tuple(Instruction(f"advice {letter}", (str(n),)) for n, letter in enumerate("abcdef"))


def test_groups_are_disjoint_of_the_right_size_and_follow_the_seed():
    groups = demonstration_groups(POOL, 4, 3, seed=1)
    assert [len(group) for group in groups] == [3] * 4
    assert len({one.id for group in groups for one in group}) == 12
    assert groups == demonstration_groups(POOL, 4, 3, seed=1) != demonstration_groups(POOL, 4, 3, seed=2)


def test_too_few_problems_for_the_groups_are_refused_with_the_numbers():
    with pytest.raises(UserError, match=r"instructions = 5 of 3 .* need 15 .* there are 12"):
        demonstration_groups(POOL, 5, 3, seed=0)


def test_small_data_gives_as_many_instructions_as_it_has_groups_and_says_so(capsys):
    print_once.cache_clear()
    assert demonstration_groups(POOL, None, 3, seed=1) == demonstration_groups(POOL, 4, 3, seed=1)
    assert "12 training problems give 4 instructions of 3 demonstrations each" in capsys.readouterr().err
    many = [replace(POOL[0], id=str(n)) for n in range(200)]
    assert demonstration_groups(many, None, 3, seed=1) == demonstration_groups(many, 32, 3, seed=1)
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="need 3 training problems, but there are 2"):
        demonstration_groups(POOL[:2], None, 3, seed=0)


def test_the_model_reads_all_of_its_group_before_it_writes():
    (turn,) = instruction_request(POOL[:3])
    for example in POOL[:3]:
        assert f"{example.question}\nSolution:\n{example.demonstration}" in turn.content


def test_a_pool_holds_each_instruction_once_and_no_empty_one():
    written = [WRITTEN[0], Instruction("ADVICE  a", ("9",)), Instruction(" ", ("8",)), *WRITTEN[1:3]]
    assert distinct_instructions(written, 3) == WRITTEN[:3]
    with pytest.raises(UserError, match=r"of 5 instructions the model wrote, 3 are .*views = 4"):
        distinct_instructions(written, 4)


def test_each_problem_gets_distinct_instructions_by_a_draw_of_its_own():
    references = InstructionContexts(WRITTEN, 3, seed=0, leaks=contains_answer)
    drawn = {example.id: references.for_example(Example(example.id + "x", "q", "d", "z")) for example in POOL}
    assert all(len(set(texts)) == 3 for texts in drawn.values())
    assert len(set(drawn.values())) > 6
    assert (
        InstructionContexts(WRITTEN, 3, seed=0, leaks=contains_answer).for_example(Example("0x", "q", "d", "z"))
        == drawn["0"]
    )
    assert (
        InstructionContexts(WRITTEN, 3, seed=1, leaks=contains_answer).for_example(Example("0x", "q", "d", "z"))
        != drawn["0"]
    )


def test_instructions_that_tell_the_answer_or_come_from_this_very_problem_are_not_used():
    references = InstructionContexts(WRITTEN, 6, seed=0, leaks=contains_answer)
    texts = references.for_example(Example("2", "q", "d", "advice E"))  # "c" was written after reading problem 2
    assert {text[-1] for text in texts} == set("abdf")
