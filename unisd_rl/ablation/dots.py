"""A drawing of a table: a line for each row, a dot for each seed, a bar for their mean; colours are the page's CSS."""

from collections.abc import Sequence
from xml.etree import ElementTree

from markupsafe import Markup

_WIDTH, _LEFT, _RIGHT, _LINE, _TOP = 720, 200, 20, 24, 28
_TICKS = 5


def dots_svg(title: str, rows: Sequence[tuple[str, Sequence[float], float]]) -> Markup:
    """`rows`: (name, a share for each seed, their mean). The axis spans what there is, in percent."""
    shares = [share for _, each, _ in rows for share in each]
    low, high = min(shares), max(shares)
    margin = max(0.02, (high - low) / 20)
    low, high = max(0.0, low - margin), min(1.0, high + margin)

    def x(share: float) -> str:
        return f"{_LEFT + (share - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT):.1f}"

    height = _TOP + _LINE * len(rows) + 24
    root = ElementTree.Element("svg", viewBox=f"0 0 {_WIDTH} {height}", role="img")
    root.set("class", "dots")
    root.set("aria-label", title)
    for tick in range(_TICKS):
        share = low + (high - low) * tick / (_TICKS - 1)
        _add(root, "line", f"{share:.1%}", x1=x(share), x2=x(share), y1=str(_TOP - 8), y2=str(height - 20))
        _add(root, "text", f"{share:.0%}", x=x(share), y=str(height - 4), **{"text-anchor": "middle"})
    for place, (name, each, mean) in enumerate(rows):
        middle = _TOP + _LINE * place + _LINE // 2
        _add(root, "text", name, x=str(_LEFT - 12), y=str(middle + 4), **{"text-anchor": "end"})
        bar = {"x1": x(mean), "x2": x(mean), "y1": str(middle - 8), "y2": str(middle + 8), "class": "mean"}
        _add(root, "line", f"{name}: mean {mean:.1%}", **bar)
        for share in each:
            _add(root, "circle", f"{name}: {share:.1%}", cx=x(share), cy=str(middle), r="4")
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # ElementTree escapes all text


def _add(root: ElementTree.Element, kind: str, text: str, **attributes: str) -> None:
    """A shape with a title that hovering shows, or a text."""
    shape = ElementTree.SubElement(root, kind, attributes)
    if kind == "text":
        shape.text = text
    else:
        ElementTree.SubElement(shape, "title").text = text
