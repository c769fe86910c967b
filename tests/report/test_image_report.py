"""The report of image attacks: page, Markdown and JSON say the same, and nothing breaks them."""

import base64
import json
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import faulty_models as small
import numpy
import pytest
import torch
from PIL import Image

from nlp_adv.attacks import FGSM, PGD, DeepFool
from nlp_adv.errors import UserError
from nlp_adv.perturbation import LInfBall
from nlp_adv.report import ModelResult, Report, write_report
from nlp_adv.report.exhibit_pictures import PictureExhibit, exhibit_ids, exhibits
from nlp_adv.robustness import epsilon_sweep, evaluate_images
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.curve import Curve, accuracy_curve

NASTY = "<script>alert(1)</script>&amp;\"'|`*_{{ 7*7 }}\udce9"
ATTACKS = {
    "fgsm": FGSM(0.05, "margin"),
    "pgd": PGD(LInfBall(0.05), step_size=0.015, steps=4, loss="margin", until_fooled=True),
    "deepfool": DeepFool("linf"),
}


@cache
def measured() -> dict:
    x, y = small.images(30)
    y = y.clone()
    y[::10] = (y[::10] + 1) % small.CLASSES
    model = small.trained()
    found = evaluate_images(model, [(x, y)], ATTACKS, within=LInfBall(0.05))
    ids = exhibit_ids(found, 8)
    radii = [2 / 255, 0.05, 26 / 255]
    return {
        "found": found,
        "sweep": epsilon_sweep(ATTACKS["pgd"], model, [(x, y)], radii),
        "exhibits": exhibits(model, x[ids], y[ids], ATTACKS),
    }


CHECKS = (Check("good", True, "found 1", "bad"), Check("open", None, "found 2", "bad"))


def made(
    labels=("red", "green", "blue"), found=None, name="small", checks=CHECKS, curved=True, **changes
) -> Report:
    given = measured()
    sweep = given["sweep"]
    points = {point.epsilon: point.share for point in accuracy_curve(sweep).points}
    curve = Curve(title="pgd", x_label="ε, L∞, grey levels of 255", points=points, scale=255.0)
    found = replace(found or given["found"], checks=checks, curves=[curve] if curved else [])
    content = {
        "title": "Image attacks",
        "data": "30 images",
        "models": [ModelResult.of(found, name)],
        "protocol": {"steps": 4, "seed": 0},
        "protocol_hash": "pgd 12ab",
        "labels": labels,
        "environment": {"torch": "2"},
        "commands": ["nlp-adv attack …"],
        "notes": ["A note."],
        "exhibit": PictureExhibit(given["exhibits"]),
    }
    return Report(**(content | changes))


class Page(HTMLParser):
    """Every element with its attributes, all text, and whether tags are closed."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.found, self.text, self._open = [], "", []
        self.feed(content)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br", "wbr"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "new"
    written = write_report(made(), folder)
    assert written[0].name == "report.html"
    assert {path.name for path in written} == {path.name for path in folder.iterdir()}
    return folder


def test_all_files_are_there(folder):
    names = {path.name for path in folder.iterdir()}
    pictures = {f"pictures_{name}.png" for name in ATTACKS}
    assert names == {
        *("report.html", "report.md", "report.json", "report.csv"),
        *("epsilon_curve.svg", "history.svg", "robust_radii.svg"),
        *pictures,
    }
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert set(re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)) == names - {
        "report.html",
        "report.md",
        "report.json",
        "report.csv",
    }


def test_page_markdown_and_json_have_the_same_numbers(folder):
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    page = Page((folder / "report.html").read_text(encoding="utf-8")).text
    text = (folder / "report.md").read_text(encoding="utf-8")
    found, (model,) = measured()["found"], content["models"]
    assert model["worst_case"]["count"] == found.worst_case.count
    assert model["worst_case"]["low"] == pytest.approx(found.worst_case.interval()[0])
    for name, one in found.summaries.items():
        assert model["attacks"][name]["under_attack"]["count"] == one.under_attack.count
        shown = f"{100 * one.under_attack.value:.1f}"
        low, high = (f"{100 * end:.1f}" for end in one.under_attack.interval())
        assert f"| {name}: small |" in text
        assert f"{shown}<br>\\[{low}, {high}\\]" in text
        assert shown in page
        assert f"{one.linf:.4g}" in page
        assert f"{one.linf:.4g}" in text
    curve, (saved,) = accuracy_curve(measured()["sweep"]), model["curves"]
    assert saved["area"] == pytest.approx(curve.area)
    assert [one["x"] for one in saved["points"]] == [point.epsilon for point in curve.points]
    for words in ("2/255", "A note.", "found 2", "an L∞ norm of at most 0.05"):
        assert words in page
        assert words in text
    assert "of 30 images right under the worst of 3 attacks" in page
    assert "1 of 2 checks passed, 1 undecided" in page
    (radii,) = content["robust_radii"]
    lengths = sorted(one.found.linf for one in found.of("deepfool") if one.outcome == "fooled")
    assert radii["radii"][: len(lengths)] == pytest.approx(lengths)
    assert f"{radii['quartiles'][1]:.4g}" in page


def test_the_page_stands_alone_and_shows_the_pixels(folder):
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    tags = [tag for tag, _ in page.found]
    assert not {"script", "link", "iframe"} & set(tags)
    sources = [attributes["src"] for tag, attributes in page.found if tag == "img"]
    assert all(source.startswith("data:image/") for source in sources)
    assert all(attributes["alt"] for tag, attributes in page.found if tag == "img")
    pictures = [source for source in sources if source.startswith("data:image/png")]
    assert len(pictures) == 3 * 6 * len(ATTACKS)
    exhibited = measured()["exhibits"]["fgsm"]
    with Image.open(BytesIO(base64.b64decode(pictures[0].split(",")[1]))) as image:
        levels = torch.tensor(numpy.asarray(image))
    assert torch.equal(levels, (255 * exhibited.x[0, 0]).round().long())


def test_large_pictures_are_jpeg(tmp_path):
    x = torch.rand(2, 3, 120, 100)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36000, 3))
    y = model(x).argmax(1)
    shown = exhibits(model, x, y, {"fgsm": FGSM(0.01)})
    write_report(made(exhibit=PictureExhibit(shown)), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 6
    assert "data:image/png" not in page


def test_names_with_markup_are_text(tmp_path):
    report = made(
        title=NASTY,
        name=NASTY,
        data=NASTY,
        labels=(NASTY,) * 3,
        checks=[Check(NASTY, passed, NASTY, NASTY) for passed in (True, False, None)],
        protocol={NASTY: NASTY},
        environment={NASTY: NASTY},
        commands=[NASTY],
        notes=[NASTY],
        exhibit=PictureExhibit({NASTY[-8:]: measured()["exhibits"]["fgsm"]}),
    )
    write_report(report, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "{{ 7*7 }}" in page
    assert "<script>alert(1)</script>" in Page(page).text
    assert "\\<script\\>" in (tmp_path / "report.md").read_text(encoding="utf-8")
    json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))


def test_a_failed_check_cannot_be_overlooked(tmp_path):
    bad = Check("masked", False, "It was blind.", "Do not believe it.")
    write_report(made(checks=[bad], exhibit=None, curved=False), tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".html", ".md", ".json", ".csv", ".svg"}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'class="verdict bad"' in page
    assert "it fails a check, so the number may not be robustness" in page
    assert 'id="pictures"' not in page
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "✗ fails" in text


def test_a_report_of_a_target_says_so(tmp_path):
    x, y = small.images(30)
    found = evaluate_images(small.trained(), [(x, y)], {"pgd": ATTACKS["pgd"]}, target=1)
    write_report(made(found=found, target=1, exhibit=None, curved=False), tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "of 20 images right and not led to “green” under pgd" in text
    assert "images of “green” are left out" in text


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(made(exhibit=None), tmp_path / "file")


class TestExhibits:
    def test_four_fooled_and_two_robust_come_first(self):
        found = measured()["found"]
        stands = found.robust()
        ids = exhibit_ids(found, 12)
        assert len(ids) == len(set(ids)) == 12
        assert [stands[number] for number in ids[:6]] == [False] * 4 + [True] * 2
        skipped = {r.id for r in found.of("pgd") if r.outcome == "wrong"}
        assert not skipped & set(ids)
        assert exhibit_ids(found, 3) == ids[:6]

    def test_fewer_images_than_places(self):
        x, y = small.images(4)
        found = evaluate_images(small.trained(), [(x, y)], {"fgsm": FGSM(0.001)})
        assert sorted(exhibit_ids(found)) == [0, 1, 2, 3]
        none = evaluate_images(small.trained(), [(x, (y + 1) % 3)], {"fgsm": FGSM(0.001)})
        assert exhibit_ids(none) == []
