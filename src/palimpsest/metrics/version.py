"""The version of the measures: it changes with every edit to their code."""

from __future__ import annotations

from palimpsest.io.code import package_hash


def measures_version() -> str:
    """Twelve hexadecimal digits of a hash over the code of `palimpsest.metrics`.

    Formulas and declarations stand in its ``measures``, and what they share in the files beside
    it: scoring takes seconds, so all of it counts. Words and layout do not
    (`palimpsest.io.code`).
    """
    return package_hash("palimpsest.metrics")[:12]
