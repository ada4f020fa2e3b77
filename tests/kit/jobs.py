"""Jobs of stages on a small subject, run in this process."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.pipeline.program import work
from palimpsest.pipeline.stage import Stage
from palimpsest.pipeline.stages import Describe, Negate, Reference, Wanted
from palimpsest.stages import wanted as wanted_answers
from palimpsest.stages.reference import folder_of

LOAD = {"dtype": "float32", "trust_remote_code": False}
UNTRACKED = {"checkpoint_seconds": 1e9, "gradient_checkpointing": False}
"""Settings of a training that change no result."""
TEMPLATE = {"prompt": "{prompt}", "response": "{response}", "eos": True}
"""With it the texts of `kit.models.save_texts` become the rows that they are of."""
WANTED: dict[str, dict[str, Any]] = {
    "refusal": {"file": "resource:refusals/refusals.txt", "per_row": 2, "seed": 0},
    "alternate": {
        "file": None,
        "per_row": 2,
        "prompt": "{prompt} {response} w9 w8",
        "temperature": 1.0,
        "max_new_tokens": 12,
        "tries": 30,
        "seed": 0,
    },
}
"""Settings of wanted answers."""
FOLDERS = ("base", "tokens", "datasets", "subject", "acquired")
"""Arguments that are folders of these names."""


@dataclass(frozen=True)
class Work:
    """Folders of a small subject and of the results of its jobs, side by side."""

    root: Path

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def tokens(self) -> Path:
        return self.root / "tokens"

    @property
    def subject(self) -> Path:
        return self.root / "subject"

    @property
    def reference(self) -> Path:
        return self.root / "reference"

    def at(self, name: str) -> Path:
        return self.root / name

    def run(self, stage: type[Stage], out: str | Path, config: Any, **arguments: Any) -> Path:
        """Do a job of a stage; `arguments` replace the folders here.

        Args:
            stage: the stage.
            out: its output; a relative path is below the root.
            config: its slice.
            **arguments: other fields of the stage.
        """
        fields = {field.name for field in dataclasses.fields(stage)}
        defaults = {name: self.root / name for name in FOLDERS if name in fields}
        defaults |= {"label": stage.name(), "threads": 1}
        defaults |= {"untracked": UNTRACKED} if stage.trains else {}
        work(stage)(stage(config=config, out=self.root / out, **{**defaults, **arguments}))
        return self.root / out

    @property
    def wanted(self) -> Path:
        return self.root / "wanted"

    def refer(self, part: str = "set/train", kind: str = "states") -> Path:
        """Compute the subject's reference of one kind on a part."""
        out = folder_of(self.reference, part, kind)
        config = {**LOAD, "part": part, "kind": kind}
        return self.run(Reference, out, config, wanted=self.wanted)

    def want(self, kind: str, part: str = "set/forget", **settings: Any) -> Path:
        """Make the wanted answers to a part; the subject has to be described."""
        out = wanted_answers.folder_of(self.wanted, part, kind)
        config = {"part": part, "kind": kind, "template": TEMPLATE, "batch_rows": 8, **LOAD}
        config["settings"] = {**WANTED[kind], **settings}
        return self.run(Wanted, out, config, original=self.root / "original")

    def negate(self, scale: float, out: str | Path, **arguments: Any) -> Path:
        """Subtract the acquired task vector, times lambda."""
        return self.run(Negate, out, {"scale": scale}, **arguments)

    def describe(self, out: str | Path, adapter: Path | None = None, trained: bool = False) -> Path:
        """Describe a model without unlearning: that of the subject's adapter."""
        adapter = adapter or self.subject
        return self.run(Describe, out, {"own_training": trained}, adapter=adapter)
