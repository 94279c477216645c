"""Fenced code blocks: as CommonMark reads them, as models write them, and whatever else a completion may hold."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from unisd_rl.tasks.code_blocks import code_blocks, with_code

F = "def f(x):\n    return x\n"
DOCSTRING = 'def f(x):\n    """Same.\n\n    ```\n    f(1)\n    ```\n    """\n    return x\n'


def indented(text: str, by: str) -> str:
    return "".join(by + line if line.strip() else line for line in text.splitlines(keepends=True))


def codes(text: str) -> list[str]:
    return [block.code for block in code_blocks(text)]


AS_MODELS_WRITE_THEM = {
    "at the margin": f"Here:\n```python\n{F}```\nDone.",
    "in a numbered item": f"1. Write it:\n   ```python\n{indented(F, '   ')}   ```\n2. Use it.",
    "four columns in a numbered item": f"1. Write it:\n\n    ```python\n{indented(F, '    ')}    ```\n",
    "in a nested item": f"- a\n    - b:\n      ```python\n{indented(F, '      ')}      ```\n- c",
    "on the item's own line": f"- ```python\n{indented(F, '  ')}  ```\n",
    "by tabs": f"- a\n\n\t```python\n{indented(F, chr(9))}\t```\n",
    "in a quote": f"> ```python\n{indented(F, '> ')}> ```\n",
    "a closing fence left of its item": f"1. Write it:\n   ```python\n{indented(F, '   ')}```\nDone.",
    "code at the margin below an item's fence": f"1. Write it:\n   ```python\n{F}   ```\n2. Use it.",
    "code left of its fence": f"  ```python\n{F}  ```\n",
    "a blank before the fence": f" ```python\n{F}```\n",
    "a longer closing fence": f"```python\n{F}`````\n",
    "blanks behind the closing fence": f"```python\n{F}``` \t\n",
    "tildes": f"~~~ python\n{F}~~~\n",
    "below a tag": f"<answer>\n```python\n{F}```\n</answer>",
    "cut": f"```python\n{F}",
    "cut in an item": f"1. Write it:\n   ```python\n{indented(F, '   ')}",
    "lines that end as on Windows": f"```python\n{F}```\n".replace("\n", "\r\n"),
}


@pytest.mark.parametrize("text", AS_MODELS_WRITE_THEM.values(), ids=AS_MODELS_WRITE_THEM)
def test_the_indentation_of_the_fence_is_no_part_of_the_code(text):
    assert codes(text) == [F]
    assert code_blocks(text)[0].language == "python"


@pytest.mark.parametrize("by", ["", "  ", "   "])
def test_a_fence_in_a_docstring_closes_nothing(by):
    item = "" if not by else f"{'-' if len(by) == 2 else '1.'} Write it:\n"
    assert codes(f"{item}{by}```python\n{indented(DOCSTRING, by)}{by}```\n") == [DOCSTRING]


NOT_CLOSED = {
    "a word behind it": "``` done",
    "a language behind it": "```python",
    "four columns in": "    ```",
    "shorter": "``",
    "of the other character": "~~~",
    "at the end of a line of code": "x = 1```",
}


@pytest.mark.parametrize("line", NOT_CLOSED.values(), ids=NOT_CLOSED)
def test_a_closing_fence_stands_alone_at_most_three_columns_in_and_as_long_as_the_opening_one(line):
    assert codes(f"```\na\n{line}\nb\n```\nc") == [f"a\n{line}\nb\n"]
    assert codes(f"````\na\n```\nb\n{line}\n````") == [f"a\n```\nb\n{line}\n"]


NO_BLOCK = [
    "f is `x`",
    "``\nx\n``",
    "```a`b",
    "text\n    ```\n    code\n    ```",
    "    ```\n    code",
    DOCSTRING,
    "",
    "\n\n",
]


@pytest.mark.parametrize("text", NO_BLOCK)
def test_what_is_no_fence_opens_no_block(text):
    assert codes(text) == []


def test_a_block_knows_whether_it_was_closed():
    texts = ["```\na\n```", "```\na", "- ```\n  a\nb", "> ```\n> a\n\nb", "```\n```", "```"]
    assert [code_blocks(text)[0].closed for text in texts] == [True, False, False, False, True, False]


def test_an_item_ends_a_block_that_was_left_open_in_it():
    assert codes("1. Bad:\n   ```python\n   bad\n2. Good:\n   ```python\n   good\n   ```") == ["bad\n", "good\n"]


def test_the_language_is_the_first_word_in_small_letters():
    infos = {
        "": "",
        "Python3": "python3",
        " py title='a'": "py",
        "c++ x": "c++",
        "{.python}": "",
        "python:a.py": "python",
    }
    assert [code_blocks(f"~~~{info}\n~~~")[0].language for info in infos] == list(infos.values())


LINES = ["```", "````", "~~~", "```py", "```a`b", "``` x", "x", "    y", "", "text", "  z", "x```"]
BEFORE = ["", "", " ", "  ", "   ", "    ", "      ", "- ", "1. ", "- - ", "> ", "> - ", "\t", "  - "]


def as_commonmark_reads(text: str) -> list[str] | None:
    """The blocks by the parser's own rules; None where something is left of its fence, which is read otherwise here."""
    parser = MarkdownIt("commonmark").disable("html_block")
    tokens = [token for token in parser.parse(text) if token.type == "fence"]
    lines = [*text.split("\n"), ""]
    for token in tokens:
        behind = lines[token.map[1]].strip()
        if behind and set(behind) <= {token.markup[0]}:
            return None
        opening, later = lines[token.map[0]], lines[token.map[0] + 1 :]
        quoted = " \t>" if ">" in opening else " \t"
        first = next((line for line in later if line.strip(quoted)), "")
        if len(first) - len(first.lstrip(quoted)) < opening.index(token.markup) or "\t" in opening:
            return None
    return [token.content for token in tokens]


@given(st.lists(st.builds(str.__add__, st.sampled_from(BEFORE), st.sampled_from(LINES)), max_size=12).map("\n".join))
@example("- ```\n  a\n\n  b\n  ```\n```\nc")
@example("> ```\n> a\n\n```\nb")
def test_blocks_are_those_of_commonmark(text):
    expected = as_commonmark_reads(text)
    assert expected is None or codes(text) == expected


@given(st.text("`~ -1.>\t\nx\r\x00\u2028"))
def test_any_text_has_blocks_and_each_is_in_its_lines(text):
    lines = text.replace("\r\n", "\n").split("\n")
    for block in code_blocks(text):
        assert block.lines.stop <= len(lines)
        code = block.code.removesuffix("\n").split("\n") if block.lines else []
        assert all(line.strip(" \t") in lines[number] for number, line in zip(block.lines, code, strict=True))


MILLION = 10**6
HOSTILE = {
    "unclosed": "```python\n" + "x\n" * (MILLION // 2),
    "one fence": "`" * MILLION,
    "fences": "``````\nx = 1\n" * (MILLION // 52),
    "ever longer fences": "".join("`" * length + "\n" for length in range(3, 1400)),
    "quotes": ">" * MILLION,
    "items on one line": "- " * (MILLION // 2),
    "fences in items": "1. ```\n" * (MILLION // 28),
    "nested items": "".join(" " * (2 * depth) + "- ```\n" for depth in range(900)),
    "blanks": " " * MILLION,
    "tabs": ("\t" * 9 + "```\n") * (MILLION // 13),
}


def seconds(text: str) -> float:
    start = time.process_time()
    code_blocks(text)
    return time.process_time() - start


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_the_time_is_linear_in_the_length(text):
    # Twenty seconds for a million characters would be ten times what any of these takes; a square would be hours.
    assert seconds(text) < 20.0


def test_other_code_takes_the_place_of_a_block_indented_as_it_was():
    assert (
        with_code(f"a\n```python\n{F}```\nb", code_blocks(f"a\n```python\n{F}```\nb")[0], "g\n")
        == "a\n```python\ng\n```\nb"
    )
    for by in ("   ", "> "):
        item = "1. a\n" if by == "   " else ""
        text = f"{item}{by}```python\n{by}{by and ''}x\n{by}```\nb"
        (block,) = code_blocks(text)
        assert with_code(text, block, "y\n\n  z\n") == f"{item}{by}```python\n{by}y\n{by.rstrip()}\n{by}  z\n{by}```\nb"
        assert codes(with_code(text, block, "y\n\n  z\n")) == ["y\n\n  z\n"]
        assert with_code(text, block, block.code) == text
