"""What a job of a stage is given: the kinds of its arguments, each with its help, once."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from palimpsest.pipeline.kept import kept


@dataclass(frozen=True)
class Option:
    """How a field of a stage is given on the command line.

    Attributes:
        help: what it is, for ``--help``.
        read: from text to value.
        many: whether it takes several values.
    """

    help: str
    read: Callable[[str], Any] = Path
    many: bool = False


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object, or the one in the file that ``@file`` names."""
    try:
        value = json.loads(kept(text))
    except ValueError as error:
        raise ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ArgumentTypeError("not a JSON object")
    return value


def whole_number(text: str) -> int:
    """Read 0, 1, 2, ..."""
    if not text.isdecimal():
        raise ArgumentTypeError(f"a whole number is needed, not '{text}'")
    return int(text)


def folder(text: str) -> Path:
    """Read a folder, named by itself or by the JSON file that stands for it."""
    path = Path(text)
    return path.parent if path.suffix == ".json" else path


Base = Annotated[Path, Option("base model: resources/models/<base>/manifest.json", folder)]
Dataset = Annotated[Path, Option("data set: resources/datasets/<dataset>/manifest.json", folder)]
Tokens = Annotated[Path, Option("folder of the base's token tables, resources/tokens/<base>")]
Datasets = Annotated[Path, Option("folder of the data sets, resources/datasets")]
Subject = Annotated[
    Path, Option("the subject's adapter: results/<model>/subject/manifest.json", folder)
]
Start = Annotated[
    Path,
    Option("what training starts from: manifest.json of the subject, or any model.json", folder),
]
Wanted = Annotated[Path, Option("answers in place of the rows' own: results/<model>/wanted")]
Reference = Annotated[
    Path, Option("what the subject computes on the rows: results/<model>/reference")
]
Examples = Annotated[
    Path, Option("rows with other labels: .../seed-<seed>/examples/manifest.json", folder)
]
RegionFile = Annotated[Path, Option("region.json: names of the tensors that may change")]
Localization = Annotated[
    Path, Option("gradients per tensor: results/<model>/localization/manifest.json", folder)
]
Acquired = Annotated[
    Path, Option("task vector: results/<model>/<method>/seed-<seed>/acquired/manifest.json", folder)
]
Vectors = Annotated[
    tuple[Path, ...], Option("task vectors that it is merged with", folder, many=True)
]
Unlearned = Annotated[
    Path, Option("any model: model.json, say results/<model>/<method>/seed-0/model/", folder)
]
Original = Annotated[Path, Option("model.json of original, the model before unlearning", folder)]
AttackRows = Annotated[Path, Option("split.json: which rows an attacker has")]
ChoosingRows = Annotated[Path, Option("split.json: which rows choose settings")]
OriginalChoosing = Annotated[Path, Option("what original says on the rows that choose")]
RetrainedChoosing = Annotated[Path, Option("the same of retrained; empty: the subject has none")]
OutFolder = Annotated[
    Path, Option("what is written: the JSON file that stands for a folder", folder)
]
OutFile = Annotated[Path, Option("the file that is written")]
Table = Annotated[Path, Option("rows.parquet of a method")]
Likelihood = Annotated[Path, Option("likelihood.parquet of the base model")]
OrdinaryAnswers = Annotated[
    Path, Option("generations.parquet of a model that nothing was unlearned from")
]
Manifests = Annotated[tuple[Path, ...], Option("manifest.json of each, for the record", many=True)]
