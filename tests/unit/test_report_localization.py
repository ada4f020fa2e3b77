"""The heat map of knowledge localization, alone and as a chart of the report."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import altair as alt
import pandas as pd
import pytest

from kit.reports import region_table
from palimpsest.report.localization import PRINT, heat_map, heat_map_spec

TABLE = pd.DataFrame(region_table())
CHOSEN = set(TABLE["tensor"][(TABLE["cosine"] < 0.7) & (TABLE["magnitude"] > 1e-4)])
OUTLINE = f'stroke="{PRINT["ink"]}" stroke-width="1.4"'


def texts(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in ET.fromstring(svg).iter() if e.tag.endswith("}text")]


@pytest.fixture(scope="module")
def plot() -> str:
    return heat_map(TABLE, CHOSEN)


def test_the_plot_is_readable_alone(plot: str) -> None:
    found = texts(plot)
    assert "Gradients of what is to be forgotten, tensor by tensor" in found
    for panel in ("cosine, A", "cosine, B", "log10 magnitude, A", "log10 magnitude, B"):
        assert found.count(panel) == 1
    assert found.count("layer") == 4
    for module in ("q_proj", "v_proj", "down_proj"):
        assert found.count(module) == 4
    for legend in ("cosine", "log10 magnitude"):
        assert found.count(legend) == 1
    assert any(f"outlined: the {len(CHOSEN)} of the region" in text for text in found)
    assert any("grey: no gradient" in text for text in found)


def test_the_plot_refers_to_nothing_outside_itself(plot: str) -> None:
    assert set(re.findall(r"https?://[^\s\"']+", plot)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "var(" not in plot


def test_every_tensor_is_a_cell_and_the_chosen_ones_are_outlined(plot: str) -> None:
    assert 0 < len(CHOSEN) < len(TABLE)
    # Cosine and magnitude: each tensor stands in two panels.
    assert plot.count(OUTLINE) == 2 * len(CHOSEN)
    silent = int((TABLE["magnitude"] == 0).sum())
    assert plot.count(f'fill="{PRINT["none"]}"') == silent > 0
    cells = re.findall(r'<path d="[^"]+" fill="rgb\([^"]+\)"', plot)
    assert len(cells) == 2 * len(TABLE) - silent


def test_without_a_region_nothing_is_outlined() -> None:
    svg = heat_map(TABLE)
    assert OUTLINE not in svg
    assert not any("outlined" in text for text in texts(svg))


@pytest.mark.parametrize(
    "lines",
    [
        [{"tensor": "lm_head.lora_A", "layer": -1, "module": "lm_head", "matrix": "A"}],
        [
            {"tensor": f"layers.{i}.up.lora_{m}", "layer": i, "module": "up", "matrix": m}
            for i in range(80)
            for m in "AB"
        ],
        [{"tensor": "w", "layer": 0, "module": "w", "matrix": ""}],
    ],
    ids=["no layer", "eighty layers", "no matrix"],
)
def test_other_shapes_are_drawn_too(lines: list[dict[str, Any]]) -> None:
    table = pd.DataFrame([{**line, "cosine": 0.5, "magnitude": 0.01} for line in lines])
    svg = heat_map(table, {lines[0]["tensor"]})
    assert svg.count(OUTLINE) == 2
    assert float(ET.fromstring(svg).attrib["width"]) < 1250


def test_layers_are_in_the_order_of_numbers_and_modules_in_that_of_the_table() -> None:
    table = TABLE.assign(layer=TABLE["layer"] + 7)
    found = texts(heat_map(table))
    first = found[found.index("cosine, A") - 40 :] if "cosine, A" in found else found
    layers = [text for text in first if text in {str(i) for i in range(7, 13)}][:6]
    assert layers == [str(i) for i in range(7, 13)]
    modules = [text for text in first if text.endswith("_proj")][:3]
    assert modules == ["q_proj", "v_proj", "down_proj"]


def test_the_specification_is_valid() -> None:
    spec = heat_map_spec(region_table(), CHOSEN, PRINT)
    alt.VConcatChart.from_dict(spec, validate=True)
