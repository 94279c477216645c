"""Curves over steps as SVG, drawn by pygal; colours are the page's CSS, so that both themes have their own.

pygal's own style and script go: the page has one style for all charts, and that script would come from a network.
Hover shows a number by the SVG's own titles; a table below each chart has all of them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

MOST_POINTS = 150
"""Of a curve, evenly spread: more cannot be told apart."""
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """`points`: (step, number). `interval`: (low, high) of each of them, drawn as a band."""

    name: str
    points: Sequence[Point]
    interval: Sequence[tuple[float, float]] = ()

    @property
    def band(self) -> list[Point]:
        """The outline of the intervals: along their lower ends, and back along the upper ones."""
        steps = [step for step, _ in self.points]
        lows, highs = ([ends[side] for ends in self.interval] for side in (0, 1))
        return [*zip(steps, lows, strict=True), *reversed([*zip(steps, highs, strict=True)])] if self.interval else []


@dataclass(frozen=True, slots=True)
class Chart:
    """`text` says what one sees."""

    title: str
    text: str
    curves: Sequence[Curve]
    percent: bool = False
    """Whether its numbers are shares, told in percent."""

    @property
    def steps(self) -> list[float]:
        """All steps that some curve has a number for."""
        return sorted({step for curve in self.curves for step, _ in curve.points})

    @property
    def head(self) -> list[str]:
        """Of the table."""
        names = ([each.name, f"{each.name}, 95 %"] if each.interval else [each.name] for each in self.curves)
        return ["step", *(name for pair in names for name in pair)]

    def table(self) -> list[list[str]]:
        """A row for each step: the step, and of each curve the number, with its interval if it has one."""
        columns = [column for each in self.curves for column in self._columns(each)]
        return [[f"{step:g}", *(column.get(step, "") for column in columns)] for step in self.steps]

    def _columns(self, curve: Curve) -> Iterator[dict[float, str]]:
        yield {step: self._text(number) for step, number in curve.points}
        if curve.interval:
            ends = [f"{self._text(low)} to {self._text(high)}" for low, high in curve.interval]
            yield {step: text for (step, _), text in zip(curve.points, ends, strict=True)}

    def _text(self, number: float | None) -> str:
        if number is None:
            return ""
        return f"{round(100 * number, 4) + 0.0:.4g}%" if self.percent else f"{number:.4g}"  # + 0.0: never -0

    def svg(self) -> Markup:
        """The drawing."""
        import pygal  # half a second

        chart = pygal.XY(
            js=[], width=460, height=260, show_legend=False, dots_size=2, x_title="step", value_formatter=self._text,
            x_value_formatter=lambda step: f"{step:g}", show_x_guides=False, no_data_text="no numbers", max_scale=6,
        )  # fmt: skip
        for curve in self.curves:
            if curve.interval:
                chart.add(None, curve.band, fill=True, show_dots=False)
            chart.add(curve.name, list(curve.points))
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
    """pygal's class of each series -> the page's: a band has the colour of the curve that it belongs to."""
    series = [
        name
        for place, curve in enumerate(curves)
        for name in ([f"curve-{place % 8} band"] if curve.interval else []) + [f"curve-{place % 8}"]
    ]
    return {f"color-{place}": name for place, name in enumerate(series)}


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
