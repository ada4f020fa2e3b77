"""Hashes of code: what is computed counts, words and layout do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from palimpsest.attacks import ATTACKING, ATTACKS
from palimpsest.io.code import code_hash, package_hash
from palimpsest.objectives.catalog import algorithms

KINDS = ("ask", "choice", "lens", "patch")
CODE = '''"""A method."""

from plugs.means import mean


class Method:
    """Its settings."""

    beta: float = 0.1
    """A brake."""

    def loss(self, values):
        """The term."""
        return mean(values) * self.beta
'''

FILES = {
    "plugs/__init__.py": "",
    "plugs/method.py": CODE,
    "plugs/means.py": "from other import shared\ndef mean(values):\n    return shared(values)\n",
    "plugs/unused.py": "x = 1\n",
    "other.py": "def shared(values):\n    return sum(values)\n",
}


@pytest.fixture
def hashed(tmp_path, monkeypatch):
    """A function: the hash of `plugs.method` in a fresh look at the files, some of them changed."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def hash_of(changes=None, of=code_hash, name="plugs.method", packages=()):
        for file, text in (FILES | (changes or {})).items():
            path = Path(tmp_path / file)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        for module in [name for name in sys.modules if name.split(".")[0] in ("plugs", "other")]:
            del sys.modules[module]
        return of.__wrapped__(name, *packages)

    return hash_of


@pytest.mark.parametrize(
    ("file", "text", "counts"),
    [
        ("plugs/method.py", CODE.replace("0.1", "0.2"), True),
        ("plugs/method.py", CODE.replace("* self.beta", "/ self.beta"), True),
        ("plugs/means.py", FILES["plugs/means.py"].replace("shared(values)", "2"), True),
        ("plugs/method.py", CODE.replace("A brake", "How soon it stops"), False),
        ("plugs/method.py", CODE.replace("The term", "One term"), False),
        (
            "plugs/method.py",
            f"# A comment.\n{CODE}".replace("mean(values) *", "(mean(values)) *"),
            False,
        ),
        ("plugs/unused.py", "x = 2\n", False),
        ("other.py", "def shared(values):\n    return 0\n", False),
    ],
)
def test_an_edit_counts_if_it_changes_what_is_computed(hashed, file, text, counts):
    before = hashed()
    assert (hashed({file: text}) != before) is counts


def test_of_a_package_every_file_counts(hashed):
    before = hashed(of=package_hash, name="plugs")
    assert hashed({"plugs/unused.py": "x = 1  # one\n"}, package_hash, "plugs") == before
    assert hashed({"plugs/unused.py": "x = 2\n"}, package_hash, "plugs") != before


def test_code_in_another_package_counts_where_that_is_named(hashed):
    files = {
        "plugs/method.py": "def run():\n    from other.work import step\n    return step()\n",
        "other/__init__.py": "raise RuntimeError('hashes import nothing')\n",
        "other/work.py": "from other.inner import one\ndef step():\n    return one\n",
        "other/inner.py": "one = 1\n",
        "other/unused.py": "",
    }
    edits = {"other/work.py": "def step():\n    return 2\n", "other/inner.py": "one = 2\n"}
    for packages, counts in (((), False), (("other",), True)):
        before = hashed(files, packages=packages)
        assert hashed(files | {"other/unused.py": "x = 1\n"}, packages=packages) == before
        for file, text in edits.items():
            assert (hashed(files | {file: text}, packages=packages) != before) is counts


def test_the_algorithms_of_attacks_count(monkeypatch):
    def hashes():
        return {name: code_hash.__wrapped__(ATTACKS.module(name), ATTACKING) for name in KINDS}

    read = Path.read_bytes
    before = hashes()
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read(path) + b"\nx = 1" * (path.name == "ridge.py")
    )
    assert {name for name, value in hashes().items() if value != before[name]} == {"lens"}


def test_a_hash_of_an_attack_imports_no_torch():
    code = (
        "import sys; from palimpsest.io.code import code_hash; "
        "code_hash('palimpsest.attacks.lens', 'palimpsest.attacking'); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_method_has_code_of_its_own():
    modules = {method.__module__ for method in algorithms().values()}
    assert len({code_hash(module) for module in modules}) == len(modules)
