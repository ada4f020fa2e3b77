"""The worked examples of docs/extending.md, as they are printed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kit.copies import REPO

PAGE = REPO / "docs/extending.md"

_CHANGE = re.compile(
    r"^(?:New file|At the end of|In) `(?P<file>[^`]+)`(?:, above `(?P<above>[^`]+)`)?:\n\n"
    r"```\w+\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_COMMANDS = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Change:
    """What is written into one file.

    Attributes:
        file: its path in the repository.
        text: what is printed.
        how: ``New file``, ``At the end of`` or ``In``.
        above: the beginning of the line that the text is put above; of a class: its decorators too.
    """

    file: str
    text: str
    how: str
    above: str

    def apply(self, folder: Path) -> None:
        """Change the file in a checkout."""
        path = folder / self.file
        if self.how == "New file":
            assert not path.exists(), self.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.text, encoding="utf-8")
            return
        before = path.read_text(encoding="utf-8")
        if self.how == "At the end of":
            path.write_text(before + self.text, encoding="utf-8")
            return
        place = re.compile(rf"^(?:@.*\n)*{re.escape(self.above)}", re.MULTILINE)
        assert len(place.findall(before)) == 1, f"{self.file} has not one line '{self.above}'"
        # Definitions in Python are two lines apart.
        text = f"{self.text}\n\n" if self.file.endswith(".py") else self.text
        path.write_text(place.sub(lambda line: text + line[0], before), encoding="utf-8")


@dataclass(frozen=True)
class Example:
    """A section of the page.

    Attributes:
        changes: what is written, in the order of the page.
        commands: what is run then.
    """

    changes: tuple[Change, ...]
    commands: tuple[str, ...]

    def apply(self, folder: Path) -> None:
        """Make all changes in a checkout."""
        for change in self.changes:
            change.apply(folder)

    def text(self, file: str) -> str:
        """What is printed of a file."""
        return next(change.text for change in self.changes if change.file == file)


def examples() -> dict[str, Example]:
    """The examples by their headings: ``A method``, ..."""
    sections = re.split(r"^## (.*)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {
        title: Example(
            tuple(
                Change(m["file"], m["text"], m[0].split(" `")[0], m["above"] or "")
                for m in _CHANGE.finditer(text)
            ),
            tuple("".join(_COMMANDS.findall(text)).splitlines()),
        )
        for title, text in zip(sections[::2], sections[1::2], strict=True)
    }
