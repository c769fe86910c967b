"""The version stands in four places, and a release is of one of them."""

import re
from pathlib import Path

import pytest
import yaml

import nlp_adv

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def headings() -> list[tuple[int, ...]]:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.findall(r"^## (\d+\.\d+\.\d+)$", text, flags=re.MULTILINE)
    return [numbers(one) for one in found]


def test_pyproject_reads_the_version_from_the_package():
    assert re.search(r"^version\s*=", PROJECT.split("[project]")[1].split("\n[")[0], re.M) is None
    assert 'dynamic = ["version"]' in PROJECT
    assert '[tool.hatch.version]\npath = "nlp_adv/__init__.py"' in PROJECT


def test_the_changelog_begins_with_this_version_or_the_next():
    version = numbers(nlp_adv.__version__)
    found = headings()
    assert found == sorted(set(found), reverse=True)
    assert found[0] >= version
    assert version in found[:2]


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == nlp_adv.__version__
    assert citation["license"] in PROJECT
    # What the schema of the format, 1.2.0, asks for.
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"


def test_the_installed_package_says_the_same():
    metadata = pytest.importorskip("importlib.metadata")
    try:
        installed = metadata.version("nlp-adv")
    except metadata.PackageNotFoundError:
        pytest.skip("not installed")
    location = metadata.distribution("nlp-adv").locate_file("")
    if Path(str(location)) not in Path(nlp_adv.__file__).parents:
        pytest.skip("another copy is installed than the one that is tested")
    assert installed == nlp_adv.__version__


@pytest.mark.parametrize(
    "file", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name
)
def test_a_file_of_the_platform_is_yaml(file):
    read = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert isinstance(read, dict)
    if file.parent.name == "ISSUE_TEMPLATE" and file.name != "config.yml":
        assert {"name", "description", "body"} <= set(read)
    if file.parent.name == "workflows":
        assert read["jobs"]
        for job in read["jobs"].values():
            assert job["timeout-minutes"] if "environment" not in job else True
