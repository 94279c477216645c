"""Curves over steps as SVG, drawn by pygal; colours are the page's CSS, so that both themes have their own.

pygal's own style and script go: the page has one style for all charts, and that script would come from a network.
Hover shows a number by the SVG's own titles; a table below each chart has all of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

MOST_POINTS = 150
"""Of a curve, evenly spread: more cannot be told apart."""
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """`points`: (step, number). A curve with `band` is drawn dashed: the border of the interval of the one before."""

    name: str
    points: Sequence[Point]
    band: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """`text` says what one sees."""

    title: str
    text: str
    curves: Sequence[Curve]

    @property
    def steps(self) -> list[float]:
        """All steps that some curve has a number for."""
        return sorted({step for curve in self.curves for step, _ in curve.points})

    def table(self) -> list[list[str]]:
        """A row for each step: the step and the number of each curve."""
        numbers = [dict(curve.points) for curve in self.curves]
        return [[f"{step:g}", *(_number(each.get(step)) for each in numbers)] for step in self.steps]

    def svg(self) -> Markup:
        """The drawing."""
        import pygal  # half a second

        chart = pygal.XY(
            js=[], width=460, height=300, show_legend=len(self.curves) > 1, legend_at_bottom=True, dots_size=2,
            legend_at_bottom_columns=2, truncate_legend=40, x_title="step", value_formatter=_number,
            x_value_formatter=lambda step: f"{step:g}", show_x_guides=False, no_data_text="no numbers", max_scale=6,
        )  # fmt: skip
        for curve in self.curves:
            chart.add(curve.name, list(curve.points), stroke_style={"dasharray": "3,4"} if curve.band else None)
        root = chart.render_tree()
        colours = _colours(self.curves)
        for parent in list(root.iter()):
            for child in list(parent):
                if child.tag in ("style", "script", "desc") or callable(child.tag):
                    if child.tag == "desc" and child.get("class") == "value":
                        ElementTree.SubElement(parent, "title").text = child.text
                    parent.remove(child)
            classes = parent.get("class", "").split()
            parent.set("class", " ".join(colours.get(name, name) for name in classes))
        title = root.find("title")
        if title is not None:
            title.text = self.title
        root.attrib.pop("id", None)
        root.set("role", "img")
        root.set("aria-label", self.title)
        return Markup(ElementTree.tostring(root, encoding="unicode"))  # ElementTree escapes all text


def _colours(curves: Sequence[Curve]) -> dict[str, str]:
    """pygal's class of each curve -> the page's: a band has the colour of the curve that it belongs to."""
    classes, colour = {}, -1
    for index, curve in enumerate(curves):
        colour += not curve.band
        classes[f"color-{index}"] = f"curve-{colour % 8}" + (" band" if curve.band else "")
    return classes


def curve(rows: Sequence[Any], name: str, key: str) -> Curve:
    """Of a number of metrics.jsonl; steps without it are left out."""
    points = [(row["step"] + 1, row[key]) for row in rows if _is_number(row.get(key))]
    return Curve(name, thinned(points))


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most `MOST_POINTS` of them, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return list(points)
    every = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(index * every)] for index in range(MOST_POINTS)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"
