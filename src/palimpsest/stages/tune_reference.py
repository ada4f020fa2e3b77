"""The rows that choose settings, measured with a model that nothing was unlearned from."""

from __future__ import annotations

import pyarrow as pa

from palimpsest.engine.device import set_up
from palimpsest.io import schemas
from palimpsest.io.sealed import read_document
from palimpsest.io.tables import write_table
from palimpsest.measuring.choosing import choosing_rows
from palimpsest.model.unlearned import load_model
from palimpsest.pipeline.stages import TuneReference


def reference(job: TuneReference) -> None:
    """Write ``{method}.parquet``.

    Raises:
        UserError: an input is missing or altered.
    """
    config, label = job.config, job.label
    device = set_up(job.threads)
    rows = choosing_rows(
        config,
        read_document(job.split)["choose"],
        job.base,
        job.tokens,
        job.datasets,
        job.untracked["batch_tokens"],
        label,
    )
    network = load_model(job.model, job.base, config["dtype"], device, config["trust_remote_code"])
    lines = rows.measured(network, 1.0, label)
    write_table(job.out, pa.Table.from_pylist(lines, schema=schemas.CHOOSING))
