"""The rest is in pyproject.toml. The wheel carries the workflow, see `palimpsest.home`."""

from collections.abc import Iterator
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# Snakemake records the environment of each rule, also where it does not make it.
FILES = ("Snakefile", "envs/palimpsest.yaml", "resources/README.md")
FOLDERS = ("config", "profiles", "workflow")
# Named one by one: a checkout's resources/ may also hold rows that are nobody else's business.
SHIPPED = "copyright customers declined general hazards notes privacy published questions refusals"


def carried() -> Iterator[Path]:
    """Files of the workflow, relative to the checkout."""
    yield from map(Path, FILES)
    for name in (*FOLDERS, *(f"resources/{folder}" for folder in SHIPPED.split())):
        files = sorted(Path(name).rglob("*"))
        yield from (f for f in files if f.is_file() and "__pycache__" not in f.parts)


class BuildPy(build_py):
    """Copies the files of the workflow beside the modules."""

    def run(self) -> None:
        """Build the modules, then copy; an editable install uses the checkout itself."""
        super().run()
        if not self.editable_mode:
            for path in carried():
                target = Path(self.build_lib, "palimpsest/carried", path)
                self.mkpath(str(target.parent))
                self.copy_file(str(path), str(target))

    def get_source_files(self) -> list[str]:
        """Files of a source distribution."""
        return [*super().get_source_files(), *map(str, carried())]


setup(cmdclass={"build_py": BuildPy})
