"""Libraries that other libraries import wherever they are installed, kept out of processes that do not use them.

Each costs every process of a run up to seconds of its start and tens of MiB.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from typing_extensions import override


@contextmanager
def hidden(library: str) -> Iterator[None]:
    """Within this block an import of `library` fails as if it were not installed."""
    before = sys.modules.pop(library, None)
    sys.modules[library] = None  # type: ignore[assignment]  # Python's own mark of what cannot be imported
    try:
        yield
    finally:
        del sys.modules[library]
        if before is not None:
            sys.modules[library] = before


def keep_pandas_out_of_pyarrow() -> None:
    """Let pyarrow look for pandas now and not find it: else it imports pandas when it first converts a list.

    It looks once to tell whether what it converts is of pandas, and again where somebody asks for a data frame.
    """
    import pyarrow as pa

    finder = _WithoutPandas()  # not `hidden`: compiled code takes that mark for the module
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)


class _WithoutPandas(MetaPathFinder):
    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is not looked for here", name=fullname)
        return None
