"""Sources on the network other than package registries: named here, fetched by a later version."""

from __future__ import annotations

from typing import NoReturn

from palimpsest.errors import UserError


def refuse_hub(name: str) -> NoReturn:
    """Say that ``hub:`` cannot be fetched yet and what works instead (UserError)."""
    raise UserError(
        f"source 'hub:{name}': downloads from a hub arrive with a later version; until then "
        f"download {name} yourself and write path:folder-or-file"
    )


def refuse_url(address: str) -> NoReturn:
    """Say that ``url:`` cannot be fetched yet and what works instead (UserError)."""
    raise UserError(
        f"source 'url:{address}': downloads from an address arrive with a later version; until "
        "then download the file yourself and write path:file"
    )
