"""The entries of ``datasets``: the keys of each follow from the adapter that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from palimpsest.data.adapters import ADAPTERS
from palimpsest.settings.dataset import DatasetSettings


def _dataset_entry() -> Any:
    classes = tuple(adapter.Settings for adapter in ADAPTERS.all().values())
    return Annotated[Union[classes], Field(discriminator="adapter")]  # noqa: UP007


if TYPE_CHECKING:
    DatasetEntry = DatasetSettings
else:
    DatasetEntry = _dataset_entry()
