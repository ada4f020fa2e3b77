"""The catalog: every method is found by its file, and has a test file of its own."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from kit import methods
from palimpsest.errors import UserError
from palimpsest.objectives.base import Objective
from palimpsest.objectives.catalog import algorithms, objective
from palimpsest.objectives.teaching import Teaching

HERE = Path(__file__).parent


@pytest.mark.parametrize("key", algorithms())
def test_a_method_has_a_test_file_of_the_name_of_its_file(key: str) -> None:
    file = Path(inspect.getfile(algorithms()[key]))
    assert (HERE / f"test_{file.name}").is_file()


@pytest.mark.parametrize("key", algorithms())
def test_settings_name_the_class(key: str) -> None:
    method = methods.method(key)
    assert type(method) is algorithms()[key]
    assert objective(method.model_dump()) == method


def test_an_unknown_algorithm_is_refused_with_a_near_miss() -> None:
    with pytest.raises(UserError, match=r"no algorithm 'lmu'.*llmu"):
        objective({"algorithm": "lmu"})


def test_pretraining_is_an_objective_and_no_method() -> None:
    assert issubclass(Teaching, Objective)
    assert Teaching not in algorithms().values()


def test_an_objective_has_defaults_for_all_but_its_draws_and_its_loss() -> None:
    assert Objective.__abstractmethods__ == {"draws", "loss"}
    plain = methods.method("finetune")
    assert plain.reads().final
    assert plain.prepare(lambda: pytest.fail("a pass that nothing reads"), {}, 0) == {}
    assert plain.finished({}) is None
