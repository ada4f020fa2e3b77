"""Heat maps of knowledge localization: layer x module, the LoRA matrices A and B side by side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import altair as alt
import vl_convert

if TYPE_CHECKING:
    import pandas as pd

Line = dict[str, Any]

TITLE = "Gradients of what is to be forgotten, tensor by tensor"
COSINE = "cosine"
MAGNITUDE = "log10 magnitude"
FACETS = (COSINE, MAGNITUDE)
MEANING = (
    "cosine with the gradient of what is kept; mean magnitude; bright: large, in another direction"
)

WIDTH, STEP, ROW = 420, 13, 19
"""Widest panel, widest column and height of a row, in pixels."""

PRINT = {"ink": "#24211c", "soft": "#5e584e", "halo": "#ffffff", "none": "#b9b3a6"}
"""Colours of a plot that stands alone."""
SCREEN = {"ink": "var(--ink)", "soft": "var(--soft)", "halo": "var(--paper)", "none": "var(--line)"}
"""Colours that follow the reader's theme."""


def heat_map(table: pd.DataFrame, selected: set[str] | None = None) -> str:
    """An SVG with title, axes, legends, and outlines around the selected tensors.

    Args:
        table: one line per LoRA tensor: tensor, layer, module, matrix (A, B), cosine (of the
            gradients of forget and retain rows), magnitude (mean of the forget gradient's entries
            without their signs; 0 is drawn grey).
        selected: names of the tensors in the region; None draws no outline.
    """
    lines = [{str(key): value for key, value in line.items()} for line in table.to_dict("records")]
    spec = heat_map_spec(lines, selected, PRINT)
    return str(vl_convert.vegalite_to_svg(spec))


def heat_map_spec(
    lines: list[Line], selected: set[str] | None, colours: dict[str, str]
) -> dict[str, Any]:
    """The Vega-Lite specification of `heat_map`, in `colours`."""
    cells = [_cell(line, line["tensor"] in (selected or ())) for line in lines]
    matrices = sorted({cell["matrix"] for cell in cells})
    layers = sorted({cell["layer"] for cell in cells}, key=_layer)
    step = max(4.0, min(STEP, WIDTH / len(layers)))
    facets = [
        alt.hconcat(*(_panel(cells, quantity, m, layers, step, colours) for m in matrices))
        for quantity in FACETS
    ]
    for facet in facets:
        facet.resolve = alt.Resolve(scale={"color": "shared"})
    subtitle = f"{len(cells)} tensors"
    if selected is not None:
        subtitle += f"; outlined: the {sum(c['chosen'] for c in cells)} of the region"
    if any(cell[MAGNITUDE] is None for cell in cells):
        subtitle += "; grey: no gradient"
    chart = alt.vconcat(*facets, spacing=18).resolve_scale(color="independent")
    chart = chart.properties(
        title=alt.TitleParams(TITLE, subtitle=[MEANING, subtitle]),
        description=f"{TITLE}: {MEANING}; {subtitle}.",
    )
    spec = chart.to_dict(validate=False)
    del spec["$schema"]
    return {**spec, "autosize": {"type": "pad"}, "config": _theme(colours)}


def _cell(line: Line, chosen: bool) -> Line:
    magnitude = line["magnitude"]
    return {
        "tensor": line["tensor"],
        "layer": "none" if line["layer"] < 0 else str(line["layer"]),
        "module": line["module"],
        "matrix": line["matrix"],
        COSINE: round(line["cosine"], 4),
        MAGNITUDE: round(math.log10(magnitude), 4) if magnitude > 0 else None,
        "chosen": chosen,
    }


def _layer(name: str) -> int:
    return -1 if name == "none" else int(name)


def _panel(
    cells: list[Line],
    quantity: str,
    matrix: str,
    layers: list[str],
    step: float,
    colours: dict[str, str],
) -> Any:
    """One quantity of one LoRA matrix: a column per layer, a row per module."""
    shown_cells = [cell for cell in cells if cell["matrix"] == matrix]
    x = alt.X(
        "layer:N",
        title="layer",
        sort=layers,
        scale=alt.Scale(domain=layers),
        axis=alt.Axis(labelAngle=0, labelOverlap="greedy"),
    )
    modules = list(dict.fromkeys(cell["module"] for cell in shown_cells))
    y = alt.Y("module:N", title=None, sort=modules)
    base = alt.Chart(alt.Data(values=shown_cells)).encode(x, y)
    color = alt.Color(
        f"{quantity}:Q",
        # Bright is what a region looks for: a gradient that is large and points another way.
        scale=alt.Scale(
            scheme="viridis", reverse=quantity == COSINE, domain=_domain(cells, quantity)
        ),
        title=quantity,
    )
    tooltip = ["tensor:N", f"{COSINE}:Q", f"{MAGNITUDE}:Q"]
    filled = base.transform_filter(f"isValid(datum['{quantity}'])").mark_rect(aria=False)
    empty = base.transform_filter(f"!isValid(datum['{quantity}'])").mark_rect(
        color=colours["none"], aria=False
    )
    layered = [filled.encode(color=color, tooltip=tooltip), empty.encode(tooltip=tooltip)]
    # Two strokes make the outline visible on cells of every brightness.
    chosen = base.transform_filter("datum.chosen")
    for name, width in (("halo", 3.2), ("ink", 1.4)):
        layered.append(
            chosen.mark_rect(
                filled=False, stroke=colours[name], strokeWidth=width, aria=False, tooltip=False
            )
        )
    name = f"{quantity}, {matrix}" if matrix else quantity
    return alt.layer(
        *layered,
        width=step * len(layers),
        height=ROW * len(modules),
        title=alt.TitleParams(name, anchor="start", fontSize=11, offset=4),
    )


def _domain(cells: list[Line], quantity: str) -> list[float]:
    values = [cell[quantity] for cell in cells if cell[quantity] is not None] or [0.0]
    low, high = min(values), max(values)
    return [low, high if high > low else low + 1]


def _theme(colours: dict[str, str]) -> dict[str, Any]:
    ink, soft = colours["ink"], colours["soft"]
    texts = {"labelColor": soft, "titleColor": soft, "labelFontSize": 10, "titleFontSize": 11}
    texts |= {"titleFontWeight": "normal"}
    return {
        "font": "sans-serif",
        **({"background": "#ffffff"} if colours is PRINT else {}),
        "view": {"stroke": None},
        "title": {
            "anchor": "start",
            "color": ink,
            "fontSize": 14,
            "subtitleColor": soft,
            "subtitleFontSize": 12,
            "offset": 12,
        },
        "axis": {**texts, "domain": False, "ticks": False, "grid": False},
        "axisX": {"titleAnchor": "end"},
        "axisY": {"minExtent": 60},
        "legend": {**texts, "orient": "right", "direction": "vertical", "titleLimit": 260},
    }
