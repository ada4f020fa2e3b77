"""Damaged configurations: each is accepted or refused in plain words, and touches nothing else."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from kit.config_fuzz import changed_configs, changed_files, files_of, fuzz, raw_config, write_files
from palimpsest.config import Config, load_config, read_config
from palimpsest.errors import SCREEN, UserError
from palimpsest.pipeline.results import has_examples, slice_of, untracked
from palimpsest.pipeline.stages import STAGES
from palimpsest.pipeline.targets import unsuited

_ACTS = ("subprocess.", "os.", "shutil.", "socket.")
_LOOKS = ("os.listdir", "os.scandir", "os.putenv", "os.unsetenv")

_WATCHED: list[Callable[[str, Any], None]] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    for watch in _WATCHED:
        watch(event, args)


sys.addaudithook(_audit)  # a hook can never be taken out again, what it calls can


@contextmanager
def untouched(project: Path, *allowed: str) -> Iterator[None]:
    """Nothing outside `project` is opened (but `allowed`), nothing is written, nothing is run."""
    faults: list[str] = []

    def watch(event: str, args: Any) -> None:
        if event == "open" and isinstance(args[0], str | bytes | Path):
            path = Path(str(args[0]))
            inside = (project / path).resolve().is_relative_to(project)
            imported = path.suffix in (".py", ".pyc", ".so") or str(path).startswith(sys.prefix)
            writes = isinstance(args[1], str) and set(args[1]) & set("wax+")
            if writes or not (inside or imported or str(path) in allowed):
                faults.append(f"{event} {args}")
        elif event.startswith(_ACTS) and event not in _LOOKS:
            faults.append(f"{event} {args}")

    _WATCHED.append(watch)
    try:
        yield
    finally:
        _WATCHED.remove(watch)
    assert faults == []


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "folder" / "project"
    (folder / "resources").mkdir(parents=True)
    for outside in (tmp_path, tmp_path / "folder"):
        (outside / "outside.txt").write_text("not for us")
    (folder / "resources/secrets.jsonl").write_text("{}\n")
    monkeypatch.chdir(folder)
    use(load_config(raw_config()), folder)  # whatever is imported is imported here
    return folder


def outcome(load: Callable[[], Config], project: Path) -> str:
    """``accepted`` or ``refused``, both checked."""
    try:
        cfg = load()
    except UserError as error:
        check_message(str(error))
        return "refused"
    use(cfg, project)
    return "accepted"


def check_message(text: str) -> None:
    """One screen, and nothing that a terminal would act on."""
    rows, columns = SCREEN
    lines = text.splitlines()
    assert sum(-(-len(line) // columns) for line in lines) <= rows, text
    assert all(line.isprintable() for line in lines), text
    assert "Traceback" not in text


def use(cfg: Config, project: Path) -> None:
    """Everything that the rules make of an accepted configuration before a job starts."""
    for name in (*cfg.bases, *cfg.datasets, *cfg.models, *cfg.methods):
        assert shlex.quote(name) == name
        assert len(name) <= 64
        path = project / "results" / name
        assert path.resolve().parent == project / "results"
    for base in cfg.bases:
        slice_of("download_model", cfg, base=base)
    for dataset in cfg.datasets:
        slice_of("download_data", cfg, dataset=dataset)
        for base in cfg.bases:
            slice_of("tokenize", cfg, base=base, dataset=dataset)
    for model in cfg.models:
        for name, stage in STAGES.items():
            if stage.shared():
                slice_of(name, cfg, model=model)
        for method in cfg.method_names():
            use_method(cfg, model, method)
    for page in ("report", "all_methods"):
        slice_of("report", cfg, page=page)


def use_method(cfg: Config, model: str, method: str) -> None:
    assert all(0 <= seed < 2**63 for seed in cfg.seeds(method, model))
    unsuited(cfg, model, method)
    known = {"model": model, "method": method}
    known |= {"seed": "0", "run": f"{method}/seed-0"}
    stages = {"measure", "lm_eval", "judge", "merge", "score", "compare"}
    if method in cfg.methods:
        settings = cfg.method(method, model)
        stages |= {"acquire", "negate", "sweep"} if settings.chain == "acquire" else {"unlearn"}
        stages |= {"examples"} if has_examples(cfg, model, method) else set()
        stages |= {"region"} if getattr(settings, "region", None) else set()
    for name in stages:
        wildcards = {key: known[key] for key in STAGES[name].per}
        slice_of(name, cfg, **wildcards)
        untracked(name, cfg, **wildcards)


def region_file(raw: Any) -> list[str]:
    """The user's own region file: like ``path:``, it may lie anywhere."""
    try:
        return [raw["methods"]["memflex"]["region"]["file"]]
    except (KeyError, TypeError):
        return []


def test_600_changed_configurations(project):
    seen: Counter[str] = Counter()

    @fuzz(600)
    @given(changed_configs())
    def check(raw: dict[str, Any]) -> None:
        with untouched(project, *region_file(raw)):
            seen[outcome(lambda: load_config(raw), project)] += 1

    check()
    assert seen.total() >= 600
    assert min(seen["accepted"], seen["refused"]) > 30, seen


def test_150_changed_files(project):
    seen: Counter[str] = Counter()

    @fuzz(150)
    @given(changed_files())
    def check(texts: dict[str, str]) -> None:
        write_files(project / "config", texts)
        with untouched(project):
            seen[outcome(lambda: read_config("config"), project)] += 1

    check()
    assert seen.total() >= 150
    assert min(seen["accepted"], seen["refused"]) >= 5, seen


def test_the_undamaged_configuration_is_accepted(project):
    write_files(project / "config", files_of(raw_config()))
    assert outcome(lambda: read_config("config"), project) == "accepted"


def test_what_leaves_the_project_is_seen(project):
    with pytest.raises(AssertionError, match=r"outside\.txt"), untouched(project):
        Path("../outside.txt").read_text()
    with pytest.raises(AssertionError, match="open"), untouched(project):
        Path("inside.txt").write_text("")


@pytest.mark.parametrize("text", ["line\n" * 25, "x" * 2401, "a\x1b[2J"])
def test_what_is_more_than_a_screen_is_seen(text):
    with pytest.raises(AssertionError):
        check_message(text)
