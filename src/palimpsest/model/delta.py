"""Training base tensors through a difference: W + delta, W frozen, delta in fp32.

Only the difference is trained and stored. The untrained model is delta = 0, and a small update is
never lost by rounding in a bf16 weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from palimpsest.errors import UserError, did_you_mean
from palimpsest.io.artifacts import DELTA_WEIGHTS
from palimpsest.io.digest import Bytes
from palimpsest.io.manifest import verified, verified_stream
from palimpsest.io.tensors import Spec, scaled_parts, write_parts, write_tensors
from palimpsest.model.names import base_name


class Delta(nn.Module):
    """W -> W + (frozen + factor * value), in W's type; either part may be missing.

    Attributes:
        value: what may be trained, of W's shape.
        frozen: what the model that training starts from adds already, fp32. As a buffer it stays
            whole in every process where weights are sharded.
        factor: on `value`.
    """

    frozen: Tensor | None

    def __init__(self, value: nn.Parameter | None = None, frozen: Tensor | None = None) -> None:
        """Add these, with factor 1."""
        super().__init__()
        self.value = value
        self.register_buffer("frozen", frozen, persistent=False)
        self.factor = 1.0

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the module uses."""
        if self.value is None:
            return (weight + self.frozen).to(weight.dtype)  # type: ignore[operator]
        if self.frozen is None:
            return torch.add(weight, self.value, alpha=self.factor).to(weight.dtype)
        added = torch.add(self.frozen, self.value, alpha=self.factor)
        return (weight + added).to(weight.dtype)


def add_deltas(model: nn.Module, patterns: Sequence[str]) -> dict[str, Tensor]:
    r"""Make the base's tensors that a pattern matches trainable through differences of zero.

    Args:
        model: the subject, with or without (frozen) PEFT layers.
        patterns: regular expressions; one matches a tensor if it matches its whole name, e.g.
            ``model\.layers\.(5|6|7)\.mlp\.down_proj\.weight``.

    Returns:
        Name in the base -> the difference (an fp32 leaf that requires gradients).

    Raises:
        UserError: a pattern matches no tensor; the message lists similar names.
    """
    places = base_tensors(model)
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in places):
            plain = re.sub(r"\\|\(.*?\)|\[.*?\]", "", pattern)
            raise UserError(
                f"training.parameters: '{pattern}' matches no tensor of the model"
                f"{did_you_mean(plain, places)}"
            )
    chosen = [n for n in places if any(re.fullmatch(p, n) for p in patterns)]
    return attach_deltas(model, {name: None for name in chosen})


def attach_deltas(model: nn.Module, values: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """Add differences to the named tensors; None stands for zero.

    Raises:
        UserError: the model has no such tensor.
    """
    places = base_tensors(model)
    trained: dict[str, Tensor] = {}
    for name, value in values.items():
        if name not in places:
            raise UserError(f"the model has no tensor {name}{did_you_mean(name, places)}")
        first, attribute = places[name][0]
        weight = getattr(first, attribute)
        if value is None:
            value = torch.zeros_like(weight, dtype=torch.float32)
        parameter = nn.Parameter(value.to(weight.device))
        if (delta := _delta_of(first, attribute)) is None:
            _register(places[name], Delta(parameter))
        else:
            delta.value = parameter
        trained[name] = parameter
    return trained


def freeze_deltas(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Add differences that are not trained; `add_deltas` adds to them.

    Raises:
        UserError: the model has no such tensor.
    """
    places = _places_of(model, values)
    for name, value in values.items():
        first, attribute = places[name][0]
        _register(places[name], Delta(frozen=value.to(getattr(first, attribute).device)))


def _places_of(model: nn.Module, names: Iterable[str]) -> dict[str, list[tuple[nn.Module, str]]]:
    places = base_tensors(model)
    for name in names:
        if name not in places:
            raise UserError(f"the model has no tensor {name}{did_you_mean(name, places)}")
    return places


def _register(places: Sequence[tuple[nn.Module, str]], delta: Delta) -> None:
    # A tied tensor (embeddings and head) stands in several places but has one difference.
    for module, attribute in places:
        parametrize.register_parametrization(module, attribute, delta, unsafe=True)


def _delta_of(module: nn.Module, attribute: str) -> Delta | None:
    if not parametrize.is_parametrized(module, attribute):
        return None
    delta: Delta = module.parametrizations[attribute][0]  # type: ignore[index,assignment]
    return delta


def add_to_weights(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Add differences to the weights themselves, one after the other, in the weights' type.

    Raises:
        UserError: the model has no such tensor.
    """
    places = _places_of(model, values)
    for name, value in values.items():
        module, attribute = places[name][0]
        weight = getattr(module, attribute)
        weight.data = (weight.data + value.to(weight.device)).to(weight.dtype)


def base_tensors(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Name in the plain base model -> the places (module, attribute) that hold this tensor."""
    places: dict[str, list[tuple[nn.Module, str]]] = {}
    names: dict[int, str] = {}
    for prefix, module in model.named_modules():
        if "lora_" in prefix or isinstance(module, Delta):
            continue
        for attribute, tensor in module.named_parameters(recurse=False):
            # A tensor with a difference stands in ``<module>.parametrizations.<attribute>``.
            owner, difference, changed = prefix.partition(".parametrizations.")
            place = (model.get_submodule(owner), changed) if difference else (module, attribute)
            name = f"{base_name(owner)}.{place[1]}".removeprefix(".")
            name = names.setdefault(id(tensor), name)
            places.setdefault(name, []).append(place)
    return places


def set_factor(model: nn.Module, factor: float) -> None:
    """Apply every difference `factor` times (-lambda: the negated task vector)."""
    for module in model.modules():
        if isinstance(module, Delta):
            module.factor = factor


def sums(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Differences of `first` with those of `second` on top; a sum is where `second` is."""
    total = dict(first)
    for name, value in second.items():
        added = value.detach()
        total[name] = first[name].to(added.device) + added if name in first else added
    return total


def write_deltas(folder: Path, deltas: Mapping[str, Tensor]) -> dict[str, str]:
    """Write the differences, on any device, to ``folder/delta.safetensors``.

    Returns:
        The file's hashes, see `palimpsest.io.digest`.
    """
    specs = {name: Spec(value.dtype, tuple(value.shape)) for name, value in deltas.items()}
    return write_tensors(
        folder / DELTA_WEIGHTS,
        specs,
        lambda name, rows: deltas[name].detach()[rows] if specs[name].shape else deltas[name],
        {"format": "pt"},
    )


def write_scaled(folder: Path, source: Path, factor: float, manifest: str) -> dict[str, str]:
    """Write `factor` times the differences in `source`, reading them once, in blocks.

    Returns:
        The file's hashes, see `palimpsest.io.digest`.

    Raises:
        UserError: the file in `source` is missing or altered; no file is written then.
    """
    return write_parts(folder / DELTA_WEIGHTS, _scaled(source, factor, manifest))


def _scaled(source: Path, factor: float, manifest: str) -> Iterator[Bytes]:
    # The hash is checked after the last part, before the temporary file is renamed.
    with verified_stream(source, DELTA_WEIGHTS, manifest) as read:
        yield from scaled_parts(source / DELTA_WEIGHTS, read, factor)


def read_deltas(folder: Path, manifest: str) -> dict[str, Tensor]:
    """Verify and read the differences in `folder`.

    Raises:
        UserError: the file is missing or altered.
    """
    return load_file(verified(folder, DELTA_WEIGHTS, manifest))
