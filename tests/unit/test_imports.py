"""A library is hidden from those who import it wherever it is; test_learner_group.py asks a rank."""

import importlib.util
import sys

import pytest

from unisd_rl.imports import hidden


def test_a_hidden_library_is_not_installed_within_the_block_and_is_again_after_it():
    with hidden("colorsys"):
        assert importlib.util.find_spec("colorsys") is None
        with pytest.raises(ImportError):
            import colorsys
    import colorsys

    assert colorsys.rgb_to_hsv(0, 0, 0) == (0, 0, 0)


def test_one_that_was_imported_before_is_the_same_module_after_the_block():
    import colorsys

    with hidden("colorsys"):
        assert importlib.util.find_spec("colorsys") is None
    assert sys.modules["colorsys"] is colorsys


def test_a_column_of_pandas_has_its_nulls_in_arrow_beside_this_code():
    """A user's own task may make one."""
    pandas = pytest.importorskip("pandas")
    import pyarrow as pa

    import unisd_rl.transport.rollouts.schema  # noqa: F401

    assert pa.array(pandas.Series([1.0, float("nan")])).null_count == 1
