"""What the benchmark of the colocated loop makes of seconds, against written arithmetic."""

import pytest

from benchmarks.loops.rows import TurnsRow
from benchmarks.loops.turns import turns_ratios


def rows(model, group, **seconds):
    return [TurnsRow(part, model, group, 3, value) for part, value in seconds.items()]


def test_the_ideal_is_both_sides_alone_one_after_the_other_and_the_worst_of_smollm2_is_told():
    measured = [
        *rows("embedded", 1, colocated=10.0, generating=3.0, learning=4.0, apart=12.0),
        *rows("smollm2", 1, colocated=100.0, generating=30.0, learning=60.0, apart=150.0),
        *rows("smollm2", 4, colocated=50.0, generating=30.0, learning=12.0),
    ]
    assert turns_ratios(measured) == pytest.approx(
        {
            "colocated_vs_ideal.embedded.g1": 0.7,
            "colocated_vs_apart.embedded.g1": 1.2,
            "colocated_vs_ideal.smollm2.g1": 0.9,
            "colocated_vs_apart.smollm2.g1": 1.5,
            "colocated_vs_ideal.smollm2.g4": 0.84,
            "colocated_vs_ideal": 0.84,
        }
    )
    assert turns_ratios([]) == {}
