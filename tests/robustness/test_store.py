"""A run in a folder: taken up again, told from other runs, saved, loaded and joined."""

import json
import math
from dataclasses import fields, replace

import pytest
from made_records import point_record, words_record

from nlp_adv.attacks.words.protocols import Protocol
from nlp_adv.errors import UserError
from nlp_adv.perturbation import LInfBall
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.curve import Curve, CurveRequest
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.joined import joined
from nlp_adv.robustness.record import Point, Record, Substitution
from nlp_adv.robustness.records import RECORDS, read_records
from nlp_adv.robustness.saved import HEADER, load, save
from nlp_adv.robustness.statistics import Share, summarise
from nlp_adv.robustness.store import COST, Store

TEXT = Evaluation(
    protocol=Protocol(name="x"), hashes={"swap": "1a"}, model="0a", data="1b", seed=0, texts=4
)
IMAGE = Evaluation(
    hashes={"pgd-linf": "2b"},
    attacks={"pgd-linf": "PGD(…), 1 starts"},
    model="0a",
    settings={"data": "digits"},
    within=LInfBall(8 / 255),
    texts=4,
)
OF_TEXT = [words_record(n, one) for n, one in enumerate(["wrong", "robust", "fooled", "robust"])]
OF_IMAGES = [
    point_record(n, one, epsilon=8 / 255, first_gradient=0.0 if n == 1 else math.nan)
    for n, one in enumerate(["wrong", "robust", "fooled", "robust"])
]
BOTH = pytest.mark.parametrize(
    ("run", "records"), [(TEXT, OF_TEXT), (IMAGE, OF_IMAGES)], ids=["text", "images"]
)


def kept(run: Evaluation, folder, records=()) -> list[Record]:
    """What is there after these have been added."""
    with Store(run, folder) as store:
        for record in records:
            store.add(record)
        return store.records(list(run.hashes), set(range(100)))


@pytest.mark.fault("E12")
class TestStore:
    @BOTH
    def test_a_killed_run_goes_on(self, tmp_path, run, records):
        kept(run, tmp_path, records[:2])
        path = tmp_path / RECORDS
        path.write_bytes(path.read_bytes() + b'{"version": 2, "id": 2, "att')
        with Store(run, tmp_path) as store:
            assert [store.has(one.attack, one.id, one.epsilon) for one in records] == [
                *(True, True),
                *(False, False),
            ]
            for record in records[2:]:
                store.add(record)
        assert kept(run, tmp_path) == read_records(path) == records

    def test_without_a_folder_nothing_is_written(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert kept(TEXT, None, OF_TEXT) == OF_TEXT
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("run", "changes", "match"),
        [
            (TEXT, {"model": "0b"}, "its model is '0a', not '0b'"),
            (TEXT, {"data": "1c"}, "its data is '1b', not '1c'"),
            (TEXT, {"seed": 1}, "its seed is 0, not 1"),
            (TEXT, {"target": 1}, "its target is None, not 1"),
            (TEXT, {"hashes": {"swap": "1b"}}, r"another swap, .*\(1a, not 1b\)"),
            (IMAGE, {"settings": {"data": "letters"}}, "its data is 'digits', not 'letters'"),
            (IMAGE, {"settings": {}}, "its data is 'digits', not ''"),
            (IMAGE, {"hashes": {"pgd-linf": "2c"}}, "another pgd-linf"),
        ],
    )
    def test_another_run_is_refused_and_what_differs_is_named(self, tmp_path, run, changes, match):
        records = OF_TEXT if run is TEXT else OF_IMAGES
        kept(run, tmp_path, records)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(UserError, match=match):
            kept(replace(run, **changes), tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_attacks_may_be_added(self, tmp_path):
        kept(TEXT, tmp_path, OF_TEXT)
        more = replace(TEXT, hashes={"flip": "3c"})
        assert kept(more, tmp_path) == []
        hashes = json.loads((tmp_path / HEADER).read_text())["hashes"]
        assert hashes == {"swap": "1a", "flip": "3c"}

    def test_records_come_in_the_order_of_attacks_radii_and_examples(self, tmp_path):
        run = replace(IMAGE, hashes={"b": "1", "a": "2"})
        points = [
            point_record(number, attack=name, epsilon=radius)
            for name, radius, number in [
                ("a", 0.2, 1),
                ("b", None, 2),
                ("a", 0.1, 1),
                ("a", 0.1, 0),
            ]
        ]
        found = kept(run, tmp_path, points)
        assert [(one.attack, one.epsilon, one.id) for one in found] == [
            ("b", None, 2), ("a", 0.1, 0), ("a", 0.1, 1), ("a", 0.2, 1),
        ]  # fmt: skip

    def test_an_example_that_is_another_is_refused(self, tmp_path):
        kept(IMAGE, tmp_path, OF_IMAGES)
        with Store(IMAGE, tmp_path) as store:
            assert store.find("pgd-linf", 8 / 255, 1, "0" * 12, 1) == OF_IMAGES[1]
            assert store.find("pgd-linf", 8 / 255, 9, "0" * 12, 1) is None
            for example, label in (("1" * 12, 1), ("0" * 12, 0)):
                with pytest.raises(UserError, match=r"other examples .example 1 differs"):
                    store.find("pgd-linf", 8 / 255, 1, example, label)

    def test_records_without_a_header_are_refused(self, tmp_path):
        (tmp_path / RECORDS).write_text("")
        with pytest.raises(UserError, match="unknown run"):
            kept(TEXT, tmp_path)
        (tmp_path / HEADER).write_text("{")
        with pytest.raises(UserError, match="damaged"):
            kept(TEXT, tmp_path)

    def test_costs_add_up(self, tmp_path):
        with Store(TEXT, tmp_path) as store:
            store.add(OF_TEXT[0])
            assert store.cost({"forwards": 8.0}) == {"forwards": 8.0}
        with (tmp_path / COST).open("a") as file:
            file.write('{"records": 1, "for')  # of a run that was killed
        with Store(TEXT, tmp_path) as store:
            assert store.cost({"forwards": 3.0, "tokens": 1.0}) == {"forwards": 11.0, "tokens": 1.0}
        (tmp_path / COST).unlink()
        with Store(TEXT, tmp_path) as store:  # then what the records themselves say
            assert store.cost({}) == {}
            assert store.cost({"forwards": 0.0})["forwards"] == OF_TEXT[0].forwards

    def test_a_run_of_images_of_version_5_goes_on(self, tmp_path):
        old = {"model": "0a", "target": None, "data": "digits", "attacks": dict(IMAGE.attacks)}
        (tmp_path / "settings.json").write_text(json.dumps(old))
        line = (
            '{"id": 1, "attack": "pgd-linf", "pixels": "000000000000", "label": 1, '
            '"clean_answer": 1, "answer": 1, "clean_confidence": 0.9, "confidence": 0.6, '
            '"outcome": "failed", "survives_8_bit": false, "l2": 0.0, "linf": 0.0, "l1": 0.0, '
            '"l0": 0, "gradient_passes": 5, "zero_gradient": false, "first_loss": -1.0, '
            '"last_loss": -0.5}\n'
        )
        (tmp_path / RECORDS).write_text(line)
        assert load(tmp_path).summaries["pgd-linf"].under_attack == Share(1, 1)
        with Store(IMAGE, tmp_path) as store:
            assert store.find("pgd-linf", 8 / 255, 1, "0" * 12, 1).outcome == "robust"
        (tmp_path / HEADER).unlink()
        other = replace(IMAGE, attacks={"pgd-linf": "PGD(other), 1 starts"})
        with pytest.raises(UserError, match=r"another pgd-linf.*PGD\(…\).*PGD\(other\)"):
            kept(other, tmp_path)


@pytest.mark.fault("E12")
class TestSaved:
    @BOTH
    def test_what_is_saved_is_loaded(self, tmp_path, run, records):
        whole = replace(
            run,
            records=records,
            description="4 examples",
            labels=("bad", "good"),
            clean_on_all=(30, 40),
            checks=[Check("noise", None, "1 %", "It is blind.")],
            curves=[Curve(title="PGD", x_label="ε", points={0.0: Share(3, 4), 0.1: Share(1, 4)})],
            cost={"forwards": 12.0},
            notes=["Texts are cut."],
            details={"starts": 1},
            environment={"torch": "2"},
            name="mine",
            shard="1/2",
        )
        kept(run, tmp_path, records)
        save(tmp_path, whole)
        found = load(tmp_path)
        for field in fields(Evaluation):
            assert getattr(found, field.name) == getattr(whole, field.name), field.name
        assert found.summaries.keys() == whole.summaries.keys()

    def test_what_was_not_asked_for_at_last_is_left_out(self, tmp_path):
        kept(TEXT, tmp_path, OF_TEXT)
        save(tmp_path, replace(TEXT, records=OF_TEXT[2:]))
        assert load(tmp_path).records == OF_TEXT[2:]

    def test_a_header_of_version_4(self, tmp_path):
        kept(TEXT, tmp_path, OF_TEXT)
        save(tmp_path, replace(TEXT, records=OF_TEXT))
        header = json.loads((tmp_path / HEADER).read_text())
        for name in ("version", "settings", "attacks"):
            del header[name]
        for name in ("within", "ids", "titles", "details", "name", "shard", "texts"):
            del header["found"][name]
        (tmp_path / HEADER).write_text(json.dumps(header))
        found = load(tmp_path)
        assert (found.records, found.name, found.shard) == (OF_TEXT, "", None)

    @pytest.mark.parametrize(
        ("damage", "match"),
        [
            (lambda header: header.pop("found"), "not finished"),
            (lambda header: header.pop("seed"), "damaged .*seed"),
            (lambda header: header["found"].pop("checks"), "damaged .*checks"),
            (lambda header: header["found"].update(curves=[1]), "damaged"),
        ],
    )
    def test_damage_is_told(self, tmp_path, damage, match):
        kept(TEXT, tmp_path, OF_TEXT)
        save(tmp_path, replace(TEXT, records=OF_TEXT))
        header = json.loads((tmp_path / HEADER).read_text())
        damage(header)
        (tmp_path / HEADER).write_text(json.dumps(header))
        with pytest.raises(UserError, match=match):
            load(tmp_path)

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(UserError, match="no evaluation"):
            load(tmp_path)


@BOTH
class TestJoined:
    def parts(self, run, records) -> list[Evaluation]:
        return [
            replace(
                run,
                shard=f"{part}/2",
                records=[one for one in records if one.id % 2 == part - 1],
                cost={"forwards": 2.0},
                checks=[Check("noise", part == 1, f"finding {part}.", "")],
            )
            for part in (1, 2)
        ]

    def test_shards_are_the_whole(self, run, records):
        whole = joined(self.parts(run, records)[::-1])
        assert list(whole.records) == records
        assert (whole.shard, whole.cost) == (None, {"forwards": 4.0})
        (noise,) = [check for check in whole.checks if check.name == "noise"]
        assert noise.passed is False
        assert "Shard 1: finding 1." in noise.finding

    def test_what_does_not_belong_together_is_refused(self, run, records):
        first, second = self.parts(run, records)
        with pytest.raises(UserError, match="another model"):
            joined([first, replace(second, model="zz")])
        with pytest.raises(UserError, match="2/2 is missing"):
            joined([first])
        with pytest.raises(UserError, match="given twice"):
            joined([first, first])
        with pytest.raises(UserError, match="no shard"):
            joined([first, replace(second, shard=None)])
        with pytest.raises(UserError, match="3 of 4 examples"):
            joined([first, replace(second, records=second.records[1:])])


@pytest.mark.fault("E11")
class TestOneMeaning:
    """A field says the same of every kind of attack, and what a kind does not have is unknown."""

    def test_numbers_that_all_have(self):
        text, image = summarise(OF_TEXT), summarise(OF_IMAGES)
        for name in ("examples", "clean", "under_attack", "success"):
            assert getattr(text, name) == getattr(image, name)
        assert (text.clean, text.under_attack, text.success) == (
            Share(3, 4),
            Share(2, 4),
            Share(1, 3),
        )

    def test_numbers_of_one_kind_are_unknown_of_the_other(self):
        text, image = summarise(OF_TEXT), summarise(OF_IMAGES)
        assert all(math.isnan(getattr(text, norm)) for norm in ("l2", "linf", "l1", "l0"))
        assert math.isnan(text.gradient_passes)
        assert text.zero_gradients == text.fooled_8_bit == Share(0, 0)
        assert math.isnan(image.words_changed)
        assert image.zero_gradients == Share(1, 3)
        assert image.fooled_8_bit == Share(1, 3)

    def test_a_gradient_that_was_not_taken_is_not_zero(self):
        records = [point_record(0, first_gradient=math.nan), point_record(1, first_gradient=0.0)]
        assert summarise(records).zero_gradients == Share(1, 2)

    def test_the_radius_is_a_field_and_not_a_part_of_the_name(self):
        one = point_record(0, attack="embedding-pgd-l2", epsilon=0.02, text="a film")
        assert (one.attack, one.title) == ("embedding-pgd-l2", "embedding-pgd-l2@0.02")
        rows = {0.1: ("robust", "robust", "wrong"), 0.2: ("robust", "fooled", "wrong")}
        records = [
            point_record(n, outcome, attack="pgd", epsilon=radius, text="a film")
            for radius, row in rows.items()
            for n, outcome in enumerate(row)
        ]
        other = point_record(7, "fooled", attack="apgd", epsilon=0.1)
        curve = CurveRequest(attack="pgd", title="PGD", x_label="ε").of([*records[::-1], other])
        assert curve.points == {0.0: Share(2, 3), 0.1: Share(2, 3), 0.2: Share(1, 3)}
        assert curve.accuracy.area == pytest.approx((2 / 3 + 1 / 2) / 2)

    def test_each_field_stands_in_one_place(self):
        common = {field.name for field in fields(Record)}
        assert not common & {field.name for kind in (Substitution, Point) for field in fields(kind)}
