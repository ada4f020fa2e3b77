"""Ascent and descent on a mixture: the loss by hand, and the signs of its rows."""

from __future__ import annotations

import pytest

from kit import models as tiny
from kit.by_hand import A, B, near, signed, stream, terms
from palimpsest.stages.examples import mixture
from reference import knowundo


@pytest.mark.parametrize("key", ["ga_gd", "ga_gd_ood"])
def test_ga_gd_is_the_mean_of_signed_row_costs(key: str) -> None:
    """KnowUnDo 7 (4): per-sequence mean x factor: (-1.5 + 3) / 2."""
    even = stream(signed(A, -1), signed(B, 1))
    found = terms(key, {"mixture": even})
    assert found == near(forget=-0.75, retain=1.5)


def test_ga_gd_divides_an_uneven_mixture_by_all_its_rows() -> None:
    """Two forget rows, one retain row, weights 2 and 1/2: (-2 (1.5 + 1.5) + 0.5 x 3) / 3."""
    uneven = stream(signed(A, -1), signed(A, -1), signed(B, 1))
    found = terms("ga_gd", {"mixture": uneven}, weights={"forget": 2, "retain": 0.5})
    assert found == near(forget=-2.0, retain=0.5)
    only = stream(signed(A, -1), signed(B, -1))
    assert terms("ga_gd", {"mixture": only}) == near(forget=-2.25, retain=0)


def test_every_row_of_a_mixture_keeps_its_own_sign() -> None:
    """B8: six to forget and three to keep. The released factors run on without rows."""
    forget = tiny.rows([(3, 2)] * 6, seed=1, name="f")
    retain = tiny.rows([(3, 2)] * 3, seed=2, name="n")
    made = mixture([forget, retain], (-1, 1), seed=0)
    assert len(made) == 12
    assert all(row.sign == (-1 if row.id.startswith("f") else 1) for row in made)
    assert sorted(row.id for row in made if row.sign < 0) == [row.id for row in forget]
    kept = [row.id for row in made if row.sign > 0]
    assert sorted(kept) == sorted([row.id for row in retain] * 2), "each comes as often"
    theirs = knowundo.mixture([r.id for r in forget], [r.id for r in retain])
    assert [id_ for id_, sign in theirs if id_.startswith("f") and sign > 0]
