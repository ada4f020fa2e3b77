"""The entries of ``attacks``: the keys of each follow from the attack that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from palimpsest.attacks import ATTACKS, AttackSettings


def attack_classes() -> dict[str, type[AttackSettings]]:
    """Kind of attack -> the class of its settings."""
    return {name: attack.Settings for name, attack in ATTACKS.all().items()}


def _attack_entry() -> Any:
    return Annotated[Union[tuple(attack_classes().values())], Field(discriminator="kind")]  # noqa: UP007


if TYPE_CHECKING:
    AttackEntry = AttackSettings
else:
    AttackEntry = _attack_entry()
