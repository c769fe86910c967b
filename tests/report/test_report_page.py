"""The page is safe, whole, and holds in every corner."""

from __future__ import annotations

import csv
import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_records import changed
from report_sample import Page, markdown_tables, record, result, right_under, sample, written

from nlp_adv.errors import UserError
from nlp_adv.report import ModelResult, Report, write_report
from nlp_adv.robustness.check_result import Check


@pytest.fixture(scope="module")
def report() -> Report:
    return sample()


@pytest.fixture(scope="module")
def files(report, tmp_path_factory) -> dict[str, str]:
    return written(report, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(files) -> Page:
    return Page(files["report.html"])


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory) -> tuple[Report, dict[str, str]]:
    report = sample(seeds=(0,))
    return report, written(report, tmp_path_factory.mktemp("one"))


NASTY = "<script>alert(1)</script>&amp;\"'|`*_{{ 7*7 }}"


def nastier(one):
    """With markup in all that a page shows of it."""
    texts = ("original", "adversarial") if one.changes_text else ("text",)
    told = {name: NASTY + getattr(one.found, name) for name in texts}
    return changed(one, attack=f"{NASTY}{one.attack}", context=NASTY, **told)


DRAWN = {"path", "use", "text", "tspan", "g", "rect"}  # of charts


class TestSafety:
    @pytest.fixture(scope="class")
    @classmethod
    def nasty(cls, tmp_path_factory) -> dict[str, str]:
        report = sample({NASTY: 1.0, "b": 0.5}, (0,))
        models = [
            replace(
                model,
                records=[
                    nastier(r) for r in model.records
                ],
                checks=[Check(NASTY, False, NASTY, NASTY), Check(NASTY, None, NASTY, NASTY)],
                curves=[replace(c, title=NASTY, x_label=NASTY) for c in model.curves],
                cost={NASTY: 1.0},
                description={NASTY: NASTY},
            )
            for model in report.models
        ]  # fmt: skip
        published = [replace(p, method=NASTY, source=NASTY) for p in report.published]
        report = replace(
            report, title=NASTY, protocol={NASTY: NASTY}, protocol_hash=NASTY, data=NASTY,
            models=models, published=published, commands=[NASTY], environment={NASTY: NASTY},
            labels=[NASTY, NASTY], notes=[NASTY],
        )  # fmt: skip
        return written(report, tmp_path_factory.mktemp("nasty"))

    def test_no_text_becomes_markup(self, nasty):
        page = Page(nasty["report.html"])
        assert "script" not in {tag for tag, _ in page.tags}
        assert not any(name.startswith("on") for _, given in page.tags for name in given)
        assert page.words.count(NASTY) > 30
        assert NASTY.replace("{{ 7*7 }}", "49") not in page.words

    def test_nor_in_markdown(self, nasty):
        outside = nasty["report.md"].replace(f"    {NASTY}\n", "").replace(f"`{NASTY}`", "")
        assert not re.search(r"(?<!\\)<(?!br>)", outside)
        assert all(len(row) == len(table[0]) for table in markdown_tables(outside) for row in table)

    def test_nothing_is_loaded(self, files, nasty):
        for text in (files["report.html"], nasty["report.html"]):
            page = Page(text)
            tags = {tag for tag, _ in page.tags}
            assert not tags & {"script", "link", "img", "iframe", "object", "embed", "image"}
            for tag, given in page.tags:
                assert not given.keys() & {"src", "srcset", "data"}
                assert tag in DRAWN or "style" not in given
                assert given.get("xlink:href", "#").startswith("#")
            assert not re.search(r"@import|url\((?!#)", text)
            targets = [given["href"] for _, given in page.tags if "href" in given]
            assert all(target.startswith(("#", "https://")) for target in targets)
            anchors = {given["id"] for _, given in page.tags if "id" in given}
            named = {one for one in anchors if not re.match(r"c\d+-", one)}  # those of no chart
            assert {target[1:] for target in targets if target[0] == "#"} == named
            policy = next(
                g["content"] for _, g in page.tags if "Security" in str(g.get("http-equiv"))
            )
            assert policy.startswith("default-src 'none'")
        assert "https://aclanthology.org/x_y" in [
            given.get("href") for _, given in Page(files["report.html"]).tags
        ]

    def test_half_a_surrogate_pair_is_written(self, tmp_path):
        report = sample({"plain": 1.0}, (0,))
        records = [
            changed(r, adversarial="\ud800" + r.found.adversarial)
            for r in report.models[0].records
            if r.changes_text
        ]
        report = replace(
            report, title="\udfff", models=[replace(report.models[0], records=records)]
        )
        files = written(report, tmp_path)
        assert json.loads(files["report.json"])["title"] == "\udfff"


class TestCorners:
    def test_one_model_has_nothing_to_compare_with(self, tmp_path):
        report = sample({"plain": 1.0}, (None,))
        files = written(report, tmp_path)
        assert not re.search("[▲▼Δ]| p =|McNemar|seed", files["report.md"].split("## Checks")[0])
        assert Page(files["report.html"]).table("method", "clean")[1][0] == "plain"
        assert {row["seed"] for row in csv.DictReader(files["report.csv"].splitlines())} == {""}

    def test_one_attack_is_its_own_worst_case(self, tmp_path):
        model = result("plain", 0)
        records = [record for record in model.records if record.attack == "textfooler"]
        report = replace(sample(), models=[replace(model, records=records)])
        files = written(report, tmp_path)
        assert Page(files["report.html"]).table("method", "clean")[0][1:] == ["clean", "textfooler"]
        content = json.loads(files["report.json"])["models"][0]
        assert content["worst_case"] == content["attacks"]["textfooler"]["under_attack"]

    def test_an_attack_that_never_succeeds(self, tmp_path):
        files = written(sample({"rock": 0.0}, (0,)), tmp_path)
        row = Page(files["report.html"]).table("attack: method")[1]
        assert row[3] == "0.0"
        assert row[5] == "–"
        assert "It never succeeded." in files["report.html"]
        assert csv.DictReader(files["report.csv"].splitlines()).__next__()["words_changed"] == ""
        assert json.loads(files["report.json"])["models"][0]["attacks"]["textfooler"][
            "words_changed"
        ] is None  # fmt: skip

    def test_a_model_that_is_always_wrong(self, tmp_path):
        model = result("wrong", 0)
        rng = random.Random(0)
        records = [record(i, "textfooler", "wrong", rng) for i in range(20)]
        report = replace(sample(), models=[replace(model, records=records, curves=[], clean=None)])
        files = written(report, tmp_path)
        table = Page(files["report.html"]).table("method", "clean")
        assert table[1][1].startswith("0.0|[0.0, 16.1]")
        summary = json.loads(files["report.json"])["models"][0]["attacks"]["textfooler"]
        assert summary["success"] == {
            "count": 0, "total": 0, "value": None, "low": None, "high": None
        }  # fmt: skip
        assert "epsilon_curve.svg" not in files

    def test_nan_is_null_and_a_dash(self, tmp_path):
        report = sample({"plain": 1.0}, (0,))
        records = [replace(r, confidence=math.nan) for r in report.models[0].records]
        cost = {"seconds": math.nan, "watts": math.inf}
        report = replace(report, models=[replace(report.models[0], records=records, cost=cost)])
        files = written(report, tmp_path)

        def refuse(text):
            raise AssertionError(f"{text} is no JSON")

        content = json.loads(files["report.json"], parse_constant=refuse)
        assert content["models"][0]["cost"] == {"seconds": None, "watts": None}
        assert not re.search(r"\bnan\b|\binf\b", files["report.html"] + files["report.md"])

    def test_an_attack_that_one_model_never_saw(self, tmp_path):
        report = sample(seeds=(0,))
        records = [r for r in report.models[1].records if r.attack != "deepwordbug"]
        models = [report.models[0], replace(report.models[1], records=records), report.models[2]]
        files = written(replace(report, models=models), tmp_path)
        head, _, row, full = Page(files["report.html"]).table("method", "clean")
        missing = [name for name, cell in zip(head, row, strict=True) if cell == "–"]
        assert missing == ["deepwordbug", "worst case"]
        assert "–" not in full
        keys = [
            (r["method"], r["attack"]) for r in csv.DictReader(files["report.csv"].splitlines())
        ]
        assert len(keys) == 8
        assert ("freelb", "deepwordbug") not in keys

    def test_models_are_compared_on_the_texts_that_both_have(self, tmp_path):
        report = sample(seeds=(0,))
        plain, freelb, _ = report.models
        fewer = [r for r in freelb.records if r.id >= 25]
        report = replace(report, models=[plain, replace(freelb, records=fewer)])
        content = json.loads(written(report, tmp_path)["report.json"])
        score = content["methods"][1]["accuracy"]["textfooler"]
        first, second = (right_under(model, "textfooler") for model in (plain, freelb))
        gap = sum(second[i] - first[i] for i in range(25, 60)) / 35
        assert score["difference"]["difference"] == pytest.approx(gap)
        assert score["mean"] == sum(second[i] for i in range(25, 60)) / 35

    def test_the_worst_case_is_that_of_the_texts_which_all_attacks_saw(self, tmp_path):
        report = sample({"plain": 0.5}, (0,))
        (model,) = report.models
        fewer = [r for r in model.records if r.attack != "deepwordbug" or r.id < 30]
        report = replace(report, models=[replace(model, records=fewer)])
        found = json.loads(written(report, tmp_path)["report.json"])["models"][0]
        stood = right_under(model, "worst case")
        assert found["worst_case"]["total"] == 30
        assert found["worst_case"]["count"] == sum(stood[i] for i in range(30)) > 0
        assert found["clean"]["total"] == 60

    @pytest.mark.parametrize(("attack", "want"), [(None, "no records"), ("clean", "'clean'")])
    def test_what_cannot_be_shown_is_refused(self, attack, want, tmp_path):
        model = result("plain", 0)
        records = [replace(r, attack=attack) for r in model.records if attack]
        with pytest.raises(UserError, match=want):
            write_report(replace(sample(), models=[replace(model, records=records)]), tmp_path)
        assert not list(tmp_path.iterdir())

    def test_a_published_value_of_something_else_is_refused(self):
        with pytest.raises(UserError, match="under attack"):
            replace(sample({"plain": 1.0}, (0,)).published[0], metric="aua")


class TestExamples:
    def test_are_of_the_records_and_few(self, report, files):
        text = files["report.html"]
        shown = re.findall(
            r"<b>(Fooled|Not fooled)</b> · (\S+), seed\xa0(\d) · text (\d+) ·\n", text
        )
        assert [kind for kind, *_ in shown] == (["Fooled"] * 5 + ["Not fooled"] * 2) * 2
        bodies = re.findall(r'<p class="text" dir="auto">(.*?)</p>', text)
        attacks = ["textfooler"] * 7 + ["deepwordbug"] * 7
        for (kind, name, seed, id), body, attack in zip(shown, bodies, attacks, strict=True):
            model = next(m for m in report.methods()[name] if m.seed == int(seed))
            one = next(r for r in model.records if (r.id, r.title) == (int(id), attack))
            assert one.outcome == {"Fooled": "fooled", "Not fooled": "robust"}[kind]
            assert re.sub("<ins>.*?</ins>|</?del>", "", body) == one.found.original
            assert re.sub("<del>.*?</del>|</?ins>", "", body) == one.found.adversarial
        assert len({(name, seed) for _, name, seed, _ in shown}) >= 4
        assert "negative (" in text

    def test_the_models_take_turns(self, tmp_path):
        rng = random.Random(0)
        records = [record(i, "textfooler", "fooled", rng) for i in range(50)]
        models = [ModelResult(name=name, records=records) for name in "abcdefg"]
        text = written(replace(sample(), models=models), tmp_path)["report.html"]
        assert re.findall(r"<b>Fooled</b> · (\S+) · text (\d+) ·", text) == [
            ("a", "5"), ("b", "15"), ("c", "25"), ("d", "35"), ("e", "45"),
        ]  # fmt: skip

    def test_ids_are_spread_over_the_data(self, files):
        ids = re.findall(r"<b>Fooled</b> [^<]*? · text (\d+) ·", files["report.html"])[:5]
        middles = [6, 18, 30, 42, 54]
        assert all(abs(int(i) - middle) <= 4 for i, middle in zip(ids, middles, strict=True))


class TestWriting:
    def test_the_same_report_is_the_same_files(self, report, files, tmp_path):
        assert written(report, tmp_path / "new" / "folder") == files
        assert set(files) == {
            "report.html", "report.md", "report.csv", "report.json",
            "epsilon_curve.svg", "query_budget.svg",
        }  # fmt: skip

    def test_a_file_is_there_whole_or_not_at_all(self, report, tmp_path, monkeypatch):
        old = written(sample({"plain": 1.0}, (0,)), tmp_path)
        write = Path.write_bytes

        def full(self, data):
            if "report.md" not in self.name:
                return write(self, data)
            write(self, data[: len(data) // 2])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match="No space left"):
            write_report(report, tmp_path)
        assert (tmp_path / "report.md").read_text(encoding="utf-8") == old["report.md"]
        assert {path.name for path in tmp_path.iterdir()} == set(old)

    def test_who_is_reading_the_old_file_reads_on(self, report, tmp_path):
        old = written(sample({"plain": 1.0}, (0,)), tmp_path)
        with (tmp_path / "report.json").open(encoding="utf-8") as reader:
            start = reader.read(100)
            write_report(report, tmp_path)
            assert start + reader.read() == old["report.json"]

    def test_a_folder_that_is_a_file_is_refused(self, report, tmp_path):
        (tmp_path / "taken").write_text("mine")
        with pytest.raises(UserError, match="taken"):
            write_report(report, tmp_path / "taken")
        assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.fault("U14")
class TestReading:
    """What a reader of a wide table, or on a phone, must see."""

    def test_a_table_wider_than_its_place_says_that_it_scrolls(self, files):
        text = files["report.html"]
        assert text.count('class="hint"') == len(Page(text).tables)
        wide = text.split('class="frame ')[1:]
        for one, table in zip(wide, Page(text).tables, strict=True):
            columns = len(table[0])
            kind = "few" if columns < 5 else "some" if columns < 8 else "many"
            assert one.startswith(kind), columns
        for kind in ("few", "some", "many"):
            assert re.search(rf"@container \(max-width: \d+rem\) {{ \.{kind} > \.hint", text)

    def test_a_long_name_breaks_behind_an_underscore_alone(self, tmp_path):
        report = replace(sample({"a": 1.0}, (0,)), protocol={"same_part_of_speech": True})
        text = written(report, tmp_path)["report.html"]
        assert "same_<wbr>part_<wbr>of_<wbr>speech" in text
        assert "overflow-wrap: normal" in text

    def test_cells_of_a_row_stand_below_one_another_on_a_phone(self, files):
        text = files["report.html"]
        phone = text[text.index("@media (max-width: 36rem)") :]
        assert re.search(r"table:not\(\.facts\) :is\(tbody, tr, th, td\) { display: block;", phone)
        assert 'data-column="finding"' in text

    def test_what_fails_with_every_seed_is_said_once(self, tmp_path):
        bad = Check("logit scale", False, "It falls by 60 points.", "A saturated softmax.")
        models = [
            replace(model, checks=[bad] if model.name == "b" else [])
            for model in sample({"a": 1.0, "b": 0.5}, (0, 1, 2)).models
        ]
        files = written(replace(sample(), models=models, published=()), tmp_path)
        text = files["report.html"]
        assert "3 of 3 checks failed" in text
        bullets = re.findall(r"<li>(.*?)</li>", text, flags=re.S)
        assert len(bullets) == 1
        assert "seed\xa00, 1, 2" in bullets[0]
        assert text.count('data-column="finding"') == 3  # the table has each

    def test_attacks_that_change_no_text_are_one_line(self, tmp_path):
        rng = random.Random(0)
        names = ("embedding-pgd-l2@0.1", "embedding-pgd-l2@0.2", "textfooler")
        records = [record(i, name, "fooled", rng) for name in names for i in range(9)]
        report = replace(sample(), models=[ModelResult(name="a", records=records)], published=())
        text = written(report, tmp_path)["report.html"]
        assert text.count("No text differs under") == 1
        line = text[text.index("No text differs under") :].split("</p>")[0]
        assert all(name in line for name in names[:2])
        assert "textfooler" not in line
