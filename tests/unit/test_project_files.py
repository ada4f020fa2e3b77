"""The files that a visitor of the repository looks for agree with the code."""

from __future__ import annotations

import re

import yaml

from kit.copies import REPO
from palimpsest import __version__

RELEASE = re.compile(r"^## (\S+)\n(.*?)(?=^## |\Z)", re.M | re.S)


def test_the_newest_release_is_the_version_of_the_code():
    newest, text = RELEASE.findall((REPO / "CHANGELOG.md").read_text())[0]
    assert newest == __version__
    assert "**Run again:**" in text, "a release says which results it makes old"


def test_the_citation_names_this_version():
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_ci_runs_what_the_repository_says():
    workflow = yaml.safe_load((REPO / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["bash .ci/run"]


def test_forms_for_issues_are_forms():
    for form in (REPO / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        fields = yaml.safe_load(form.read_text())
        if form.name != "config.yml":
            assert {"name", "description", "body"} <= set(fields), form
            assert all({"type", "attributes"} <= set(field) for field in fields["body"]), form
