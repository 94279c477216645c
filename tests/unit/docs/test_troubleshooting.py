"""docs/troubleshooting.md quotes messages as the code has them, and has an entry for every one that ends a command."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
VALUE = "\0"
ENDS = ("UserError", "RunFailed", "InsufficientResources", "WriteError", "wrong")
"""What a sentence that ends a command is made with; in the configuration `ValueError` too."""
SAID_ELSEWHERE = ("ModuleNotFoundError", "note:")
"""What Python itself says, and the notes, whose sentences follow the colon."""


def template(node):
    """The text of a string expression with a mark for each value; None for anything else."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(part.value if isinstance(part, ast.Constant) else VALUE for part in values)
        case ast.BinOp(left=left, right=right):
            return f"{template(left) or VALUE}{template(right) or VALUE}"
    return None


@cache
def product():
    """(file, tree) of the product."""
    files = [file for top in ("unisd_rl", "actors", "learner") for file in sorted((ROOT / top).rglob("*.py"))]
    return [(file.relative_to(ROOT), ast.parse(file.read_text())) for file in files]


@cache
def texts():
    """All strings of the code but its documentation, and the lines of the script that starts nodes."""
    trees = [tree for _, tree in product()]
    documentation = {id(node.value) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    nodes = [node for tree in trees for node in ast.walk(tree) if id(node) not in documentation]
    said = {text for node in nodes if (text := template(node)) and len(text) > 5}
    return said | set((ROOT / "deploy/node.sh").read_text().splitlines())


def quotes():
    """What stands in backticks in the first cell of the tables' rows, but field names and values alone."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| message")]
    return [quote for row in rows for quote in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def says(text, quote):
    """Whether the text has the quote's pieces in their order; `...` stands for any values."""
    return pattern(quote).search(text) is not None


@cache  # more quotes than `re` remembers
def pattern(quote):
    pieces = [piece.strip() for piece in quote.split("...") if piece.strip()]
    return re.compile(".*".join(map(re.escape, pieces)), flags=re.DOTALL)


def test_every_quoted_message_is_one_that_the_code_says():
    unsaid = [quote for quote in quotes() if not any(says(text, quote) for text in texts())]
    assert [quote for quote in unsaid if quote not in SAID_ELSEWHERE] == []


def messages():
    """The sentences that end a command, by where they stand."""
    for file, tree in product():
        ends = (*ENDS, "ValueError") if file.is_relative_to("unisd_rl/config") else ENDS
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and called(node) in ends and node.args and (text := template(node.args[0])):
                yield f"{file}:{node.lineno}", text


def called(node):
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", None)


def test_every_message_that_ends_a_command_has_an_entry():
    said = [(place, text) for place, text in messages() if re.search(r"\w", text.replace(VALUE, ""))]
    assert len(said) > 150
    assert [(place, text) for place, text in said if not any(says(text, quote) for quote in quotes())] == []
