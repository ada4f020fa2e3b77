"""The settings of one trial."""

from __future__ import annotations

from palimpsest.errors import UserError
from palimpsest.io.sealed import write_document
from palimpsest.pipeline import points
from palimpsest.pipeline.stages import Point


def point(job: Point) -> None:
    """Write ``point.json``.

    Raises:
        UserError: the space does not hold the entry's own values for this subject.
    """
    config = job.config
    if fault := config.get("fault"):
        raise UserError(fault)
    number = config["number"]
    if config.get("points"):
        settings = config["points"][0]
    else:
        settings = points.point(config.get("space", {}), config.get("seed", 0), number)
    write_document(job.out, {"trial": points.name_of(number), "settings": settings})
