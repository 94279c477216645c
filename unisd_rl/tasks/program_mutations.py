"""Program mutations: a right program with one small mistake, elsewhere the same byte for byte.

| kind | e.g. |
|---|---|
| off by one | `range(n)` becomes `range(n - 1)`, `x[1]` becomes `x[2]` |
| wrong operator | `+` for `-`, `<` for `<=`, `and` for `or`, `min` for `max` |
| missing edge case | an `if` that returns, raises or skips is never taken |
| wrong return | another value, the opposite, or nothing is returned |
"""

import ast
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest

_OPERATORS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>", ast.And: "and", ast.Or: "or",
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.In: "in",
    ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not",
}  # fmt: skip
_WRONG = {
    "+": "-", "-": "+", "*": "+", "/": "*", "//": "%", "%": "//", "**": "*", "&": "|", "|": "&", "^": "|", "<<": ">>",
    ">>": "<<", "and": "or", "or": "and", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==",
    "in": "not in", "not in": "in", "is": "is not", "is not": "is",
}  # fmt: skip
_CALLED = {"min": "max", "max": "min", "any": "all", "all": "any"}
_LEAVES = (ast.Return, ast.Raise, ast.Continue, ast.Break)


@dataclass(frozen=True, slots=True)
class Mutation:
    """Bytes `start` to `end` of the program, in UTF-8, are replaced by `text`."""

    start: int
    end: int
    text: str


def mutated_programs(program: str, seed: int) -> Iterator[str]:
    """A program with one mutation each; the four kinds in turn, in a seeded order. What is no Python gives none.

    Some mutations change nothing that a test sees: grade them.
    """
    tree = syntax_tree(program)
    if tree is None:
        return
    draw, kinds = random.Random(seed), list(mutations_by_kind(tree, program).values())
    draw.shuffle(kinds)
    for mutations in kinds:
        draw.shuffle(mutations)
    source = _encoded(program)
    for mutation in filter(None, chain.from_iterable(zip_longest(*kinds))):
        mutated = source[: mutation.start] + mutation.text.encode() + source[mutation.end :]
        text = mutated.decode("utf-8", "surrogatepass")
        if syntax_tree(text) is not None:
            yield text


def mutations_by_kind(tree: ast.AST, program: str) -> dict[str, list[Mutation]]:
    """Every possible mutation of a parsed program."""
    text = _Text(program)
    kinds = ("off by one", "wrong operator", "missing edge case", "wrong return")
    mutations: dict[str, list[Mutation]] = {kind: [] for kind in kinds}
    for node in ast.walk(tree):
        changes_by_kind = (_off_by_one(node), _wrong_call(node), _missing_edge_case(node), _wrong_return(node))
        for kind, changes in zip(kinds, changes_by_kind, strict=True):
            mutations[kind] += [
                Mutation(*text.span(old), ast.unparse(ast.fix_missing_locations(new))) for old, new in changes
            ]
        mutations["wrong operator"] += _wrong_operator(node, text)
    return mutations


class _Text:
    """A program with the places of its nodes."""

    def __init__(self, program: str) -> None:
        self.bytes = _encoded(program)
        self._starts = [0]
        for line in self.bytes.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def span(self, node: ast.expr) -> tuple[int, int]:
        """First byte of a node, and the one after its last."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.lineno - 1] + node.col_offset, self._starts[node.end_lineno - 1] + node.end_col_offset


# Old expression, new one. None stands where a tighter operator could reach into it, so none needs brackets.
Change = tuple[ast.expr, ast.expr]


def _off_by_one(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Call(func=ast.Name(id="range"), args=[*_, last]) if not isinstance(last, ast.Starred):
            bound = node.args[1] if len(node.args) == 3 else last
            yield bound, _plus(bound, -1)
            yield bound, _plus(bound, 1)
        case ast.Subscript(slice=ast.Constant(value=int(index)) as indexed) if not isinstance(index, bool):
            yield indexed, ast.Constant(index + 1)
        case ast.Slice(lower=lower, upper=upper):
            yield from ((bound, _plus(bound, 1)) for bound in (lower, upper) if bound is not None)
        case ast.Compare(comparators=[ast.Constant(value=int(number)) as compared]) if not isinstance(number, bool):
            yield compared, ast.Constant(number + 1)
        case ast.Assign(value=ast.Constant(value=int(number)) as assigned) if not isinstance(number, bool):
            yield assigned, ast.Constant(number + 1)
        case ast.BinOp(right=ast.Constant(value=int(number)) as operand) if not isinstance(number, bool):
            yield operand, ast.Constant(number + 1)


def _wrong_call(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Call(func=ast.Name(id=name) as called) if name in _CALLED:
            yield called, ast.Name(_CALLED[name])


def _wrong_operator(node: ast.AST, text: _Text) -> Iterator[Mutation]:
    """The sign between two operands alone is changed."""
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            pass
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            pass
        case ast.BoolOp(op=op, values=[left, right, *_]):
            pass
        case _:
            return
    sign = _OPERATORS.get(type(op))
    if sign is not None:
        start, end = text.span(left)[1], text.span(right)[0]
        at = text.bytes[start:end].find(sign.encode())
        if at >= 0:  # "not  in", with two blanks, is left alone
            yield Mutation(start + at, start + at + len(sign), _WRONG[sign])


def _missing_edge_case(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.If(test=test, body=[*_, last]) if isinstance(last, _LEAVES):
            yield test, ast.Constant(False)
        case ast.IfExp(test=test):
            yield test, ast.Constant(True)
        case ast.comprehension(ifs=[test, *_]):
            yield test, ast.Constant(True)


def _wrong_return(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Return(value=ast.Constant(value=bool(value)) as returned):
            yield returned, ast.Constant(not value)
        case ast.Return(value=ast.Compare() | ast.BoolOp() as returned):
            yield returned, ast.UnaryOp(ast.Not(), returned)
        case ast.Return(value=ast.BinOp() as returned):
            yield returned, _plus(returned, 1)
            yield returned, returned.left
        case ast.Return(value=ast.Call(args=[inner, *_]) as returned) if not isinstance(inner, ast.Starred):
            yield returned, inner
        case ast.Return(value=ast.Tuple(elts=[first, second, *others]) as returned):
            yield returned, ast.Tuple([second, first, *others], ast.Load())
        case ast.Return(value=ast.expr() as returned):
            yield returned, ast.Constant(None)


def _plus(value: ast.expr, step: int) -> ast.expr:
    return ast.BinOp(value, ast.Add() if step > 0 else ast.Sub(), ast.Constant(abs(step)))


def parsed(program: str) -> ast.Module:
    """The syntax tree of a program, without Python's warnings, e.g. of odd escapes: not for us to say.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: it is no Python, or too deep.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(program)


def syntax_tree(program: str) -> ast.Module | None:
    """The syntax tree of a program; None where it is no Python."""
    try:
        return parsed(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _encoded(program: str) -> bytes:
    return program.encode("utf-8", "surrogatepass")
