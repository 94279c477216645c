from dataclasses import fields, is_dataclass, replace

from tests.fakes.step_metrics import step_metrics
from unisd_rl.metrics import READ_PARTS

METRICS = step_metrics({"negative": 2.5})
METRICS = replace(METRICS, loss=replace(METRICS.loss, other_terms={"entropy_loss": 0.5}))


def test_every_number_of_a_step_stands_in_its_line_under_a_name_of_its_own():
    """Two parts with a field of one name would lose a number."""
    parts = [getattr(METRICS, field.name) for field in fields(METRICS)]
    counted = sum(len(fields(part)) if is_dataclass(part) else 1 for part in parts)
    mappings = 2
    assert len(METRICS.flat()) == counted + mappings * (len(READ_PARTS) - 1)
    assert all(isinstance(number, int | float) for number in METRICS.flat().values())


def test_a_part_of_the_step_names_its_seconds_and_its_tokens():
    line = METRICS.flat()
    assert (line["negative_s"], line["negative_tokens"], line["primary_s"]) == (2.5, 0, 0.0)


def test_a_term_of_ones_own_has_its_numbers_in_the_line():
    assert METRICS.flat()["entropy_loss"] == 0.5
    assert "other_terms" not in METRICS.flat()
