"""Wrong programs that read like right ones: one small change in the text of a correct program."""

import ast
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "in": "not in"}
_OPERATORS = {"+": "-", "-": "+", "*": "+", "//": "*", "/": "*", "%": "//", "**": "*", "|": "&", "&": "|", "^": "|"}
_CONNECTIVES = {"and": "or", "or": "and"}


@dataclass(frozen=True, slots=True)
class _Place:
    """Bytes from `start` to `end` of the UTF-8 program, and what to put there."""

    start: int
    end: int
    text: bytes


def planted_bugs(program: str, seed: int) -> Iterator[str]:
    """The program with one operator, comparison or number changed, then with a result withheld; a seeded order.

    Only the changed place differs from the program, byte for byte. A program that is no Python gives none.
    """
    source = program.encode("utf-8", "surrogatepass")
    try:
        tree = parsed(source)
    except (SyntaxError, ValueError):
        return
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    draw = random.Random(seed)
    for places in (_changes(tree, source, starts), _withheld(tree, starts)):
        draw.shuffle(places)
        for place in places:
            yield (source[: place.start] + place.text + source[place.end :]).decode("utf-8", "surrogatepass")


def parsed(program: str | bytes) -> ast.Module:
    """The syntax tree of a program, without Python's warnings, e.g. of odd escapes: not for us to say.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: it is no Python, or too deep.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(program)


def _changes(tree: ast.AST, source: bytes, starts: list[int]) -> list[_Place]:
    places: list[_Place] = []
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=bool(value)):
                places.append(_Place(*_span(node, starts), str(not value).encode()))
            case ast.Constant(value=int(value)):
                places.append(_Place(*_span(node, starts), str(value + 1).encode()))
            case ast.BinOp(left=left, right=right):
                places += _between(left, right, _OPERATORS, source, starts)
            case ast.Compare(left=left, comparators=[right]):
                places += _between(left, right, _COMPARISONS, source, starts)
            case ast.BoolOp(values=[left, right, *_]):
                places += _between(left, right, _CONNECTIVES, source, starts)
    return places


def _between(left: ast.expr, right: ast.expr, swaps: dict[str, str], source: bytes, starts: list[int]) -> list[_Place]:
    """The change of the operator that stands between two operands, brackets and blanks aside."""
    start, end = _span(left, starts)[1], _span(right, starts)[0]
    gap = source[start:end].decode("utf-8", "replace")
    operator = gap.strip(" \t\n\r\\()")
    if operator not in swaps or gap.count(operator) != 1:
        return []
    at = start + len(gap[: gap.index(operator)].encode())
    return [_Place(at, at + len(operator.encode()), swaps[operator].encode())]


def _withheld(tree: ast.AST, starts: list[int]) -> list[_Place]:
    returns = (node.value for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value is not None)
    return [_Place(*_span(value, starts), b"None") for value in returns]


def _span(node: ast.expr, starts: list[int]) -> tuple[int, int]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
