"""Fenced code blocks of a Markdown text, by CommonMark's rules (spec 0.31, section 4.5).

The indentation of the opening fence is taken off every line of the code. A closing fence stands alone on its line, is
at least as long as the opening one, of the same character, and at most three columns in, so that a fence in a
docstring closes nothing. Blocks may stand in list items and quotes; one that is never closed, as in a completion that
was cut, reaches to the end of what it stands in.

Three things differ, for the sake of programs that models write. Code that begins further left than its fence keeps its
shape: CommonMark would take the little indentation off that it has, or, in a list item, end the block before it. A
closing fence may stand left of the list item; CommonMark opens another block there. And tags are text: in CommonMark a
fence after a line `<answer>` is raw HTML.
"""

import re
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock

_OPENING = re.compile(r"(?P<fence>`{3,}(?=[^`\n]*$)|~{3,})(?P<info>.*)", re.MULTILINE)
_LANGUAGE = re.compile(r"\s*([\w+-]*)")


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A fenced block: the first word after its opening fence in small letters, and its code without indentation."""

    language: str
    code: str
    lines: range
    """Which lines of the text hold the code, counted from 0."""
    closed: bool


def code_blocks(text: str) -> list[CodeBlock]:
    """The fenced blocks of a text, in order."""
    state = StateBlock(_unix(text), _PARSER, {}, [])
    _PARSER.block.tokenize(state, 0, state.lineMax)
    return [
        CodeBlock(token.info, token.content, range(*token.map), token.meta["closed"])
        for token in state.tokens
        if token.type == "fence" and token.map is not None
    ]


def with_code(text: str, block: CodeBlock, code: str) -> str:
    """The text with other code in one of its blocks, indented (and quoted) as the block's first line of code is."""
    lines = _unix(text).split("\n")
    old = zip(lines[block.lines.start : block.lines.stop], block.code.split("\n"), strict=False)
    before = next((line.removesuffix(code_line) for line, code_line in old if code_line.strip()), "")
    new = [before + line if line else before.rstrip() for line in code.removesuffix("\n").split("\n")]
    return "\n".join([*lines[: block.lines.start], *new, *lines[block.lines.stop :]])


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")


def _fence(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """The rule of the parser: whether a block opens at line `start`; unless `silent`, the block as a token."""
    opening = None if state.is_code_block(start) else _OPENING.match(state.src, _begin(state, start))
    if opening is None or silent:
        return opening is not None
    closing = re.compile(rf"{opening['fence'][0]}{{{len(opening['fence'])},}}[ \t]*$", re.MULTILINE)
    first = next((line for line in range(start + 1, end) if not state.isEmpty(line)), end)
    at_margin = first < end and 0 <= state.sCount[first] < state.blkIndent  # -1: a lazy line after a quote
    line = start + 1
    while line < end and (at_margin or not _leaves(state, line)) and not _closes(state, line, closing):
        line += 1
    token = state.push("fence", "code", 0)
    language = _LANGUAGE.match(opening["info"])
    token.info = language[1].lower() if language else ""
    indentation = min(state.sCount[start], state.sCount[first]) if first < line else state.sCount[start]
    token.content = state.getLines(start + 1, line, indentation, True)
    token.map = [start + 1, line]
    token.meta["closed"] = closed = line < end and _closes(state, line, closing)
    state.line = line + closed
    return True


def _begin(state: StateBlock, line: int) -> int:
    return state.bMarks[line] + state.tShift[line]


def _leaves(state: StateBlock, line: int) -> bool:
    """Whether a line ends the list item that the block stands in."""
    return not state.isEmpty(line) and state.sCount[line] < state.blkIndent


def _closes(state: StateBlock, line: int, closing: re.Pattern[str]) -> bool:
    return not state.is_code_block(line) and closing.match(state.src, _begin(state, line)) is not None


def _parser() -> MarkdownIt:
    parser = MarkdownIt("zero").enable(["code", "blockquote", "list", "fence"])
    parser.block.ruler.at("fence", _fence, {"alt": ["paragraph", "reference", "blockquote", "list"]})
    parser.block.ruler.getRules("")  # compiled here: two threads that grade at once would find half of the rules
    return parser


_PARSER = _parser()
