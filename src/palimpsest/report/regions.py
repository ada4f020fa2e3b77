"""The region of each method: heat maps of the localization, with the trained tensors outlined."""

from __future__ import annotations

from palimpsest.report.charts import Chart
from palimpsest.report.inputs import Region, Run, Subject
from palimpsest.report.localization import SCREEN, heat_map_spec
from palimpsest.report.numbers import count

HEADER = ["Tensor", "Layer", "Module", "Matrix", "Cosine", "Magnitude", "In the region"]


def region_charts(subject: Subject) -> list[Chart]:
    """A heat map of each method that trains a region; with several seeds, of the first one."""
    return [_chart(subject, run, run.regions[0]) for run in subject.runs if run.regions]


def _chart(subject: Subject, run: Run, region: Region) -> Chart:
    chosen = {line["tensor"] for line in region.tensors if line["selected"]}
    text = _in_words(run, region, len(chosen))
    spec = heat_map_spec(region.tensors, chosen, SCREEN)
    # The page's heading names the method, the text next to it describes the rest.
    spec.pop("title")
    return Chart(
        id=f"{subject.name}-{run.method}-region",
        method=run.method,
        title=run.title,
        text=text,
        spec={**spec, "description": f"{run.title}: {text}"},
        header=HEADER,
        rows=[
            [
                line["tensor"],
                str(line["layer"]),
                line["module"],
                line["matrix"],
                f"{line['cosine']:.4f}",
                f"{line['magnitude']:.3g}",
                "yes" if line["selected"] else "",
            ]
            for line in sorted(region.tensors, key=lambda line: not line["selected"])
        ],
        csv="regions",
    )


def _in_words(run: Run, region: Region, chosen: int) -> str:
    facts = region.facts
    text = f"{chosen} of {len(region.tensors)} tensors are trained (outlined)"
    if facts.get("parameters") is not None:
        text += f", {count(facts['parameters'])} parameters"
    limits = facts.get("limits")
    rule = (
        f"cosine below {limits['cosine']:.3g} and magnitude above {limits['magnitude']:.3g}"
        if limits
        else "a list of tensors from the user"
    )
    if facts.get("random"):
        text += f"; drawn at random, as many as by this rule: {rule}"
    else:
        text += f"; the rule: {rule}"
    if len(run.regions) > 1:
        text += f". Shown is the region of seed {region.seed}"
    return text + "."
