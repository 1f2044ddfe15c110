"""Charts of the evaluation's figures: estimates with their intervals, in Vega-Lite by Altair.

Every function takes rows with ``set``, ``model``, ``value``, ``low`` and ``high`` (in percent, or
in points) and what else it names, and the orders in which sets and models are to stand.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import altair as alt
import vl_convert

Rows: TypeAlias = Sequence[Mapping[str, Any]]
Box: TypeAlias = tuple[float, float, float, float]  # left, bottom, width, height

#: Told apart with any kind of colour vision (Okabe and Ito, 2008); yellow, which white swallows,
#: left out. Shapes say the same once more.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F"]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "stroke", "wedge"]

#: Carried by vl-convert, so that a figure's measures are the same on any machine.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"

#: Letters of a line of a caption.
CAPTION_WIDTH = 96


def by_set(
    rows: Rows, sets: Sequence[str], models: Sequence[str], title: str, kinds: Sequence[str]
) -> alt.FacetChart:
    """A panel a model, a line a set; ``kind`` is the colour, several of a set below each other.

    A row without a value shows its ``note`` in its place.
    """
    tells = len(kinds) > 1
    offset = alt.YOffset("kind:N", sort=list(kinds))
    key = _series("kind", kinds, title=None) if tells else {}
    y = alt.Y("set:N", sort=list(sets), title=None, scale=alt.Scale(domain=list(sets)))
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=True), axis=alt.Axis(grid=True))
    at = {"x": x, "y": y, **key, **({"yOffset": offset} if tells else {})}
    return _panels(
        [_zero(), _bars(at, "x"), _points(at)], rows, models, _height(sets, len(kinds)), 230
    )


def needed(rows: Rows, sets: Sequence[str], models: Sequence[str]) -> alt.FacetChart:
    """A panel a model, a line a set; examples on a scale of powers of two, or a ``note``."""
    y = alt.Y("set:N", sort=list(sets), title=None, scale=alt.Scale(domain=list(sets)))
    domain = _powers(rows)
    scale = alt.Scale(type="log", base=2, domain=domain, nice=False)
    # An interval without an end goes on to the frame.
    ended = [
        row if row["low"] is None or row["high"] is not None else {**row, "high": domain[1]}
        for row in rows
    ]
    x = alt.X(
        "value:Q",
        title="labelled examples a class",
        scale=scale,
        axis=alt.Axis(format="~g", values=[2**power for power in range(-4, 20)], labelOverlap=True),
    )
    at = {"x": x, "y": y}
    shown = alt.expr.isValid(alt.datum["value"])
    note = (
        alt.Chart()
        .mark_text(align="left", fontSize=9, color="#555", limit=220)
        .encode(y=y, x=alt.value(6), text="note:N")
        .transform_filter(~shown)
    )
    layers = [_bars(at, "x").transform_filter(shown), _points(at).transform_filter(shown), note]
    return _panels(layers, ended, models, _height(sets, 1), 230)


def curves(
    rows: Rows, models: Sequence[str], title: str, sets: Sequence[str] | None = None
) -> alt.LayerChart | alt.FacetChart:
    """Scores by ``shots``, a line a model; 0 shots are zero-shot, a dashed line through all.

    Args:
        sets: a panel for each; None: the rows are of no set.
    """
    shots = sorted({row["shots"] for row in rows})
    x = alt.X(
        "shots:O",
        sort=shots,
        title="labelled examples a class",
        axis=alt.Axis(labelAngle=0),
        scale=alt.Scale(paddingInner=0.5, paddingOuter=0.25),  # models beside each other, but near
    )
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))
    series = _series("model", models)
    at = {"x": x, "xOffset": alt.XOffset("model:N", sort=list(models)), "y": y, **series}
    level = (
        alt.Chart()
        .mark_rule(strokeDash=[4, 3], opacity=0.6, aria=False)
        .encode(y=y, color=series["color"])
        .transform_filter(alt.datum["shots"] == 0)
    )
    lines = _line(at).transform_filter(alt.datum["shots"] > 0)
    layers = [level, lines, _bars(at, "y"), _points(at, 30 if sets else 50)]
    if sets is None:
        return alt.layer(*layers, data=_data(rows)).properties(width=420, height=260)
    inner = alt.layer(*layers, data=_data(rows)).properties(width=200, height=130)
    columns = 3 if len(sets) < 10 else 5
    chart = inner.facet(facet=_facet("set", sets), columns=columns, bounds="flush", spacing=70)
    return chart.resolve_scale(y="independent").resolve_axis(x="independent")


def against(rows: Rows, models: Sequence[str], x_title: str, y_title: str) -> alt.FacetChart:
    """A panel a model, a point a set: ``x`` against ``value``, with their intervals, named."""
    domain = _square(rows)
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    x = alt.X("x:Q", title=x_title, scale=scale)
    y = alt.Y("value:Q", title=y_title, scale=scale)
    diagonal = (
        alt.Chart(_data([{"x": end, "value": end} for end in domain]))
        .mark_line(color="#999", strokeDash=[4, 3], strokeWidth=1, aria=False)
        .encode(x="x:Q", y="value:Q")
    )
    across = (
        alt.Chart()
        .mark_rule(color=COLOURS[0], opacity=0.5, aria=False)
        .encode(x=alt.X("x_low:Q", scale=scale, title=x_title), x2="x_high:Q", y=y)
    )
    at = {"x": x, "y": y}
    names = (
        alt.Chart()
        .mark_text(fontSize=9, color="#333", aria=False, align="left")
        .encode(x=alt.X("label_x:Q", scale=scale, title=x_title), y="label_y:Q", text="set:N")
        .transform_filter(alt.expr.isValid(alt.datum["label_x"]))
    )
    size = 280
    placed = [row for model in models for row in _labelled(_of(rows, model), domain, size)]
    layers = [diagonal, across, _bars(at, "y"), _points(at, 30), names]
    return _panels(layers, placed, models, size, size)


def by_compute(
    rows: Rows,
    models: Sequence[str],
    titles: Sequence[str],
    x_title: str,
    y_title: str = "mean score (%)",
    joined: bool = False,
) -> alt.FacetChart:
    """A panel a ``kind``, a point a row: ``x`` on a logarithmic scale against ``value``.

    Args:
        joined: a line goes through the points of a model.
    """
    x = alt.X(
        "x:Q",
        title=x_title,
        scale=alt.Scale(
            type="log",
            nice=False,
            domain=[min(row["x"] for row in rows) / 1.5, max(row["x"] for row in rows) * 1.5],
        ),
        axis=alt.Axis(format="~g", tickCount=5),
    )
    y = alt.Y("value:Q", title=y_title, scale=alt.Scale(zero=False))
    at = {"x": x, "y": y, **_series("model", models)}
    layers = [*([_line(at)] if joined else []), _bars(at, "y"), _points(at, 60)]
    inner = alt.layer(*layers, data=_data(rows)).properties(width=300, height=240)
    chart = inner.facet(facet=_facet("kind", titles), columns=2)
    return chart.resolve_scale(y="independent").resolve_axis(x="independent")


def draw(chart: alt.TopLevelMixin, title: str, caption: str) -> str:
    """The chart as SVG, below its title and above its caption.

    Nothing is fetched: data, fonts and Vega's code are here, and addresses are refused. The same
    chart gives the same bytes.
    """
    lines = textwrap.wrap(caption, CAPTION_WIDTH)
    below = alt.TitleParams(
        lines, orient="bottom", anchor="start", fontSize=11, fontWeight="normal", offset=12
    )
    captioned = cast("alt.FacetChart", chart).properties(title=below)
    whole = (
        alt.vconcat(captioned)
        .properties(title=alt.TitleParams(title, anchor="start", fontSize=14, offset=12))
        .configure(font=FONT, padding=12)
        .configure_axis(labelLimit=180, gridColor="#eee", domainColor="#999", tickColor="#999")
        .configure_view(stroke="#ddd")
        .configure_legend(orient="top", title=None, columns=3, labelLimit=260, symbolOpacity=1)
        .configure_header(labelLimit=260, labelFontWeight="bold", title=None)
    )
    version = alt.SCHEMA_VERSION.removeprefix("v").rsplit(".", 1)[0]
    return vl_convert.vegalite_to_svg(whole.to_dict(), vl_version=version, allowed_base_urls=[])


def picture(svg: str) -> bytes:
    """The same as PNG, for where SVG is not shown."""
    return vl_convert.svg_to_png(svg, scale=2)


def _data(rows: Iterable[Mapping[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=[dict(row) for row in rows])


def _of(rows: Rows, model: str) -> Rows:
    return [row for row in rows if row["model"] == model]


def _facet(field: str, order: Sequence[str]) -> alt.Facet:
    return alt.Facet(f"{field}:N", sort=list(order), title=None)


def _panels(
    layers: Sequence[alt.Chart], rows: Rows, models: Sequence[str], height: int, width: int
) -> alt.FacetChart:
    inner = alt.layer(*layers, data=_data(rows)).properties(width=width, height=height)
    return inner.facet(facet=_facet("model", models), columns=3)


def _height(sets: Sequence[str], kinds: int) -> int:
    return len(sets) * (8 + 8 * kinds)


def _series(field: str, names: Sequence[str], **options: Any) -> dict[str, Any]:
    """Colour and shape of each name, in one legend."""
    colours, shapes = (_cycled(values, len(names)) for values in (COLOURS, SHAPES))
    domain = list(names)
    return {
        "color": alt.Color(f"{field}:N", scale=alt.Scale(domain=domain, range=colours), **options),
        "shape": alt.Shape(f"{field}:N", scale=alt.Scale(domain=domain, range=shapes), **options),
    }


def _cycled(values: Sequence[str], number: int) -> list[str]:
    return [values[index % len(values)] for index in range(number)]


def _bars(at: Mapping[str, Any], along: str) -> alt.Chart:
    """Intervals from ``low`` to ``high``."""
    channels = {name: channel for name, channel in at.items() if name != "shape"}
    channels[along] = channels[along].copy()
    channels[along].shorthand = "low:Q"
    mark = alt.Chart().mark_rule(strokeWidth=1.2, aria=False)
    if "color" not in at:
        mark = alt.Chart().mark_rule(strokeWidth=1.2, aria=False, color=COLOURS[0])
    return mark.encode(**channels, **{f"{along}2": "high:Q"})


def _line(at: Mapping[str, Any]) -> alt.Chart:
    channels = {name: channel for name, channel in at.items() if name != "shape"}
    return alt.Chart().mark_line(strokeWidth=1.2, opacity=0.7, aria=False).encode(**channels)


def _points(at: Mapping[str, Any], size: int = 36) -> alt.Chart:
    return alt.Chart().mark_point(filled=True, opacity=1, size=size, color=COLOURS[0]).encode(**at)


def _zero() -> alt.Chart:
    return alt.Chart().mark_rule(color="#999", aria=False).encode(x=alt.datum(0))


def _powers(rows: Rows) -> list[float]:
    """Powers of two around all that is shown."""
    shown = [row[name] for row in rows for name in ("value", "low", "high") if row[name]]
    low, high = 1.0, 16.0
    while shown and low > max(min(shown), 2**-4):
        low /= 2
    while shown and high < max(shown):
        high *= 2
    return [low, high]


def _square(rows: Rows) -> list[float]:
    """The same range for both axes, in steps of five points."""
    names = ("x", "x_low", "x_high", "value", "low", "high")
    shown = [row[name] for row in rows for name in names if row[name] is not None]
    return [max(0.0, min(shown) // 5 * 5), min(100.0, -(-max(shown) // 5) * 5 + 5)]


def _labelled(rows: Rows, domain: Sequence[float], size: int) -> list[dict[str, Any]]:
    """With the place of each set's name, where there is one for it."""
    placed = []
    for row, box in zip(rows, label_boxes(rows, domain, size), strict=True):
        label_x, label_y = (box[0], box[1] + box[3] / 2) if box else (None, None)
        placed.append({**row, "label_x": label_x, "label_y": label_y})
    return placed


def label_boxes(rows: Rows, domain: Sequence[float], size: int) -> list[Box | None]:
    """A box for each set's name beside its point: right, left, or between its intervals.

    A name that would lie on a point, an interval or another name has none.

    Args:
        domain: the range that both axes show, on ``size`` pixels.
    """
    step = (domain[1] - domain[0]) / size  # of a pixel
    taken = [box for row in rows for box in _cross(row, 5 * step)]
    boxes: list[Box | None] = []
    for row in rows:
        free = (
            box
            for box in _choices(row, step)
            if box[0] >= domain[0]
            and box[0] + box[2] <= domain[1]
            and not any(_meet(box, other) for other in taken)
        )
        boxes.append(next(free, None))
        taken += [box for box in boxes[-1:] if box]
    return boxes


def _choices(row: Mapping[str, Any], step: float) -> Iterator[Box]:
    """Where the name of a set could stand, the best first."""
    x, y = row["x"], row["value"]
    width, height = (5.2 * len(row["set"]) + 2) * step, 10 * step
    right, left = x + 4 * step, x - 4 * step - width
    above, below = y + step, y - step - height
    yield (row["x_high"] or x) + 7 * step, y - height / 2, width, height
    yield (row["x_low"] or x) - 7 * step - width, y - height / 2, width, height
    for level in (above, below):
        for side in (right, left):
            yield side, level, width, height
    for level in (above + 6 * step, below - 6 * step):
        yield x - width / 2, level, width, height


def _cross(row: Mapping[str, Any], half: float) -> Iterator[Box]:
    """The boxes of a point and its two intervals."""
    x, y = row["x"], row["value"]
    yield x - half, y - half, 2 * half, 2 * half
    if row["x_low"] is not None:
        yield row["x_low"], y, row["x_high"] - row["x_low"], 0.0
    if row["low"] is not None:
        yield x, row["low"], 0.0, row["high"] - row["low"]


def _meet(one: Box, other: Box) -> bool:
    """Whether two boxes share a point."""
    return (
        one[0] < other[0] + other[2]
        and other[0] < one[0] + one[2]
        and one[1] < other[1] + other[3]
        and other[1] < one[1] + one[3]
    )
