"""MemFlex: the loss by hand."""

from __future__ import annotations

from kit.by_hand import A, B, near, signed, stream, terms


def test_memflex_weighs_by_the_released_factors() -> None:
    """(-0.4 x 1.5 + 2 x 3) / 2 = -0.3 + 3."""
    rows = stream(signed(A, -1), signed(B, 1))
    assert terms("memflex", {"mixture": rows}) == near(forget=-0.3, retain=3.0)
    unit = terms("memflex", {"mixture": rows}, weights={"forget": 1, "retain": 1})
    assert unit == terms("ga_gd", {"mixture": rows})
