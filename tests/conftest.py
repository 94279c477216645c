"""What holds for every test."""

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `gpu` that is asked for where there is none says so instead of failing."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
