"""The notebooks of docs/notebooks: what is committed was run, and it runs again (slow)."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 200_000  # bytes


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell: dict) -> str:
    return "".join(cell["source"])


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == kind]


def test_they_are_there():
    assert {path.stem for path in NOTEBOOKS} == {"chat", "classify", "evaluate", "images"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_was_committed_after_a_whole_run(path):
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = [output["output_type"] for cell in code for output in cell["outputs"]]
    assert "error" not in kinds
    assert kinds
    assert path.stat().st_size < LARGEST
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(?:work|home|root|tmp)/", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_links_lead_somewhere(path):
    prose = "\n".join(source(cell) for cell in cells(path, "markdown"))
    targets = [one.partition("#")[0] for one in re.findall(r"\]\(([^)\s]+)\)", prose)]
    assert targets
    for target in targets:
        assert (path.parent / target).resolve().exists(), target


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_says_how_to_take_a_model_from_the_hub(path):
    assert "from the Hub" in source(read(path)["cells"][0])


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="the extra notebooks")
    nbformat = pytest.importorskip("nbformat", reason="the extra notebooks")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    resources = {"metadata": {"path": str(tmp_path)}}
    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(book, timeout=None, resources=resources).execute()
