"""NegMerge: the consensus of task vectors, and the model without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kit import jobs
from kit import models as tiny
from kit.config_example import put, raw_config
from palimpsest.config import load_config
from palimpsest.errors import UserError
from palimpsest.io.artifacts import DELTA_WEIGHTS, HAZARDOUS, MODEL
from palimpsest.io.manifest import read_manifest, write_manifest
from palimpsest.io.private import ACQUIRED
from palimpsest.model import delta
from palimpsest.model.adapter import FILES, Update, write_adapter
from palimpsest.model.base import load_base
from palimpsest.model.lora import attach_subject
from palimpsest.model.unlearned import load_model
from palimpsest.model.vector import attach_vector, consensus, consensus_of, product
from palimpsest.pipeline.results import costs_behind, jobs_of, slice_of

CPU = torch.device("cpu")
Q, V = (f"model.layers.1.self_attn.{name}_proj" for name in "qv")
IDS = torch.tensor([[5, 9, 33, 70, 2, 8]])


def test_the_golden_consensus() -> None:
    i = torch.arange(6, dtype=torch.float64)
    found = consensus([(0.57 * m + 1.3 * i).sin() for m in range(3)])
    assert found.tolist() == pytest.approx(
        [0, 0.854854900202, 0, -0.868449090478, 0, 0.633473616807], rel=1e-9
    )


def test_one_vector_is_itself_and_order_does_not_count() -> None:
    one, two, three = torch.randn(3, 5, 7, dtype=torch.float64)
    assert torch.equal(consensus([one]), one)
    assert torch.equal(consensus([one, one]), one)
    assert not consensus([one, -one]).any()
    assert not consensus([one, torch.zeros_like(one)]).any(), "an entry of 0 agrees with none"
    torch.testing.assert_close(consensus([one, two, three]), consensus([three, one, two]))


def update(seed: int, module: str) -> Update:
    random = torch.Generator().manual_seed(seed)
    model = tiny.llama(torch.float32)
    outputs, inputs = model.get_submodule(module).weight.shape
    a, b = (torch.randn(s, generator=random) for s in ((2, inputs), (outputs, 2)))
    return Update(a, 0.2 * b, 0.5)


def write(folder: Path, updates: Mapping[str, Update], deltas: Mapping[str, Tensor]) -> Path:
    folder.mkdir()
    files = []
    if updates:
        write_adapter(folder, dict(updates), folder)
        files += FILES
    if deltas:
        delta.write_deltas(folder, deltas)
        files += ["delta.safetensors"]
    write_manifest(folder, files)
    return folder


@pytest.fixture
def work(tmp_path: Path) -> jobs.Work:
    """A subject with an adapter, two task vectors as adapters and one as differences."""
    made = jobs.Work(tmp_path)
    tiny.save_base(made.base, tiny.llama(torch.float32))
    write(made.subject, {Q: update(0, Q)}, {})
    write(made.at("acquired"), {Q: update(1, Q), V: update(2, V)}, {})
    write(made.at("second"), {Q: update(3, Q), V: update(4, V)}, {})
    difference = 0.1 * product(update(5, Q)).float()
    write(made.at("third"), {}, {f"{Q}.weight": difference})
    return made


def expected(folders: list[dict[str, Tensor]], name: str) -> Tensor:
    """Entry by entry."""
    found = torch.zeros_like(folders[0][name])
    for place in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
        values = [f[name][tuple(place)].item() for f in folders]
        if all(v > 0 for v in values) or all(v < 0 for v in values):
            found[tuple(place)] = sum(values) / len(values)
    return found


def dense(*seeds: tuple[str, int]) -> dict[str, Tensor]:
    return {
        f"{m}.weight": 0.5 * update(s, m).b.double() @ update(s, m).a.double() for m, s in seeds
    }


def test_adapters_and_differences_are_merged_entry_by_entry(work: jobs.Work) -> None:
    one, two = dense((Q, 1), (V, 2)), dense((Q, 3), (V, 4))
    found = consensus_of([work.at("acquired"), work.at("second")])
    assert set(found) == {f"{Q}.weight", f"{V}.weight"}
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected([one, two], name).float())
        assert 0.3 < (value == 0).float().mean() < 0.7, "half of the entries agree"
    found = consensus_of([work.at(name) for name in ("acquired", "second", "third")])
    assert set(found) == {f"{Q}.weight"}, "a tensor that one of them leaves as it is"
    three = {f"{Q}.weight": 0.1 * dense((Q, 5))[f"{Q}.weight"]}
    torch.testing.assert_close(
        found[f"{Q}.weight"], expected([one, two, three], f"{Q}.weight").float()
    )


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


def without(work: jobs.Work, scale: float, vector: Mapping[str, Tensor]) -> Tensor:
    """Logits of the subject less the vector, by hand."""
    model = attach_subject(load_base(work.base, "float32", CPU), work.subject).merge_and_unload()
    with torch.no_grad():
        for name, value in vector.items():
            model.get_parameter(name).sub_(scale * value)
    return logits(model)


def test_the_subject_less_the_consensus_is_stored_as_differences(work: jobs.Work) -> None:
    others = (work.at("second"),)
    vector = consensus_of([work.at("acquired"), *others])
    out = work.negate(1.5, "less", others=others)
    manifest = read_manifest(out, MODEL)
    # The subject's update of one tensor is in its difference; the other tensor is the vector's own.
    assert manifest["kind"] == "delta"
    assert set(load_file(out / DELTA_WEIGHTS)) == set(vector)
    assert manifest["hazardous"] == [ACQUIRED]
    assert ACQUIRED in (out / HAZARDOUS).read_text()
    found = logits(load_model(out, work.base, "float32", CPU))
    torch.testing.assert_close(found, without(work, 1.5, vector), rtol=1e-4, atol=1e-5)
    again = work.negate(0.5, "again", others=others, subject=out)
    torch.testing.assert_close(
        logits(load_model(again, work.base, "float32", CPU)),
        without(work, 2.0, vector),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("others", [(), ("second",), ("second", "third")])
def test_the_sweep_sees_the_model_that_negation_makes(
    work: jobs.Work, others: tuple[str, ...]
) -> None:
    folders = tuple(work.at(name) for name in others)
    subject = attach_subject(load_base(work.base, "float32", CPU), work.subject)
    model, changed, set_factor = attach_vector(subject, work.at("acquired"), folders)
    assert len(changed) == (1 if len(others) == 2 else 2)
    for scale in (0.0, 0.75):
        set_factor(-scale)
        made = load_model(
            work.negate(scale, f"at-{scale}", others=folders), work.base, "float32", CPU
        )
        torch.testing.assert_close(logits(model), logits(made), rtol=1e-4, atol=1e-5)


MERGED = put(raw_config(), "methods.sku.merge", ["anchored", "sku/seed-7"])


def test_merging_retrains_nothing_and_its_vectors_are_made_and_recorded() -> None:
    cfg, before = load_config(MERGED), load_config(raw_config())
    run = {"model": "subject", "method": "sku", "seed": "1"}
    assert slice_of("acquire", cfg, **run) == slice_of("acquire", before, **run)
    assert slice_of("negate", cfg, **run) != slice_of("negate", before, **run)
    made = [
        (w["method"], w["seed"])
        for stage, w in jobs_of(cfg, "subject", "sku", 1)
        if stage.name() == "acquire"
    ]
    assert made == [("sku", "1"), ("anchored", "1"), ("sku", "7")]
    assert '"acquire anchored"' in costs_behind(cfg, "subject", "sku")


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (["sku"], "seed 0 with itself"),
        (["anchored", "sku/seed-1"], "seed 1 with itself"),
        (["ancored"], "task vector of 'ancored'.*did you mean"),
        (["anchored", "anchored"], "twice"),
        (
            ["anchored", "anchored/seed-1"],
            r"merge: at seed 1 both 'anchored' and 'anchored/seed-1' are anchored/seed-1, which",
        ),
        (["no name/seed-1"], "a method is needed, or method/seed-1"),
    ],
)
def test_what_cannot_be_merged_is_refused(vectors: list[str], said: str) -> None:
    with pytest.raises(UserError, match=rf"(?s)methods\.sku.*{said}"):
        load_config(put(raw_config(), "methods.sku.merge", vectors))
