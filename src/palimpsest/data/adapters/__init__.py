"""One file per adapter: how the rows of a published schema become records.

A file here holds

* ``Settings``: a `DatasetSettings` subclass whose ``adapter`` is a ``Literal`` of the file's name,
* ``columns(dataset)``: the columns that the data file must have,
* ``records(raw, dataset)``: the records of one raw row,
* ``SCHEMA``, if a file shall have certain columns and no others: those of each form of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from palimpsest.plugins import Plugins
from palimpsest.settings.dataset import DatasetSettings

if TYPE_CHECKING:
    from palimpsest.data.read import RawRow
    from palimpsest.data.records import Record


class Adapter(Protocol):
    """What the file of an adapter holds."""

    Settings: type[DatasetSettings]

    def columns(self, dataset: Any) -> list[str]:
        """Columns that the data file must have, by the adapter's ``Settings``."""
        ...

    def records(self, raw: RawRow, dataset: Any) -> Iterable[Record]:
        """The records of one row, by the adapter's ``Settings``.

        Raises:
            RowFault: the row cannot be used.
            LeftOut: the settings leave the row out.
        """
        ...


ADAPTERS: Plugins[Adapter] = Plugins(__name__, "adapter")
"""Every adapter, by the name of its file."""


def dataset_settings(**keys: Any) -> DatasetSettings:
    """The settings of a data set, checked by its adapter's ``Settings``.

    Raises:
        UserError: there is no such adapter.
        ValidationError: a key or value is not valid.
    """
    return ADAPTERS.get(keys["adapter"]).Settings(**keys)
