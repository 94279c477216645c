"""The pictures of README and docs are there, small, and ask nothing of a network."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PICTURES = sorted((ROOT / "docs/pictures").iterdir())


def test_every_picture_is_small_and_shown_somewhere():
    shown = "".join((ROOT / name).read_text() for name in ("README.md", "docs/report.md"))
    assert [path.name for path in PICTURES if path.stat().st_size > 200_000] == []
    assert [path.name for path in PICTURES if f"pictures/{path.name}" not in shown] == []
    assert len(PICTURES) >= 4


def test_a_drawing_loads_no_font_and_no_picture():
    for path in PICTURES:
        if path.suffix == ".svg":
            assert not re.search(r"url\([\"']?https?:|href=\"http|@import", path.read_text())
