"""How a region of the subject's adapter is chosen from its localization table."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from palimpsest.settings.types import Fraction, NonNegative, Real, Section


class Region(Section):
    """Tensors whose cosine is below one limit and whose magnitude is above another."""

    by: Literal["threshold", "quantile", "file"] = "threshold"
    """threshold: the two limits are values; quantile: shares of the tensors; file: a list."""
    cosine: Real = 0.92
    """mu: tensors are chosen whose cosine between forget and retain gradients is below it."""
    magnitude: NonNegative = 6e-4
    """sigma: tensors are chosen whose mean absolute forget gradient is above it."""
    cosine_quantile: Fraction = 0.5
    """by quantile: mu is this quantile of the cosines."""
    magnitude_quantile: Fraction = 0.5
    """by quantile: sigma is this quantile of the magnitudes."""
    file: str | None = None
    """by file: a JSON list of tensor names, as KnowUnDo writes it, or a region.json."""
    random: bool = False
    """The same number of tensors, drawn with the seed, whatever their values are (an ablation)."""

    @model_validator(mode="after")
    def _file(self) -> Self:
        if (self.by == "file") != (self.file is not None):
            raise ValueError("a file is named when by is 'file', and only then")
        return self
