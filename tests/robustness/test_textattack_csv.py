"""TextAttack's log, as its CSV logger writes it."""

import csv
import io
import math

import pytest

from nlp_adv.errors import UserError
from nlp_adv.robustness.records import RecordWriter, read_records
from nlp_adv.robustness.statistics import Share, summarise
from nlp_adv.robustness.textattack_csv import read_textattack_csv

COLUMNS = [
    "original_text",
    "perturbed_text",
    "original_score",
    "perturbed_score",
    "original_output",
    "perturbed_output",
    "ground_truth_output",
    "num_queries",
    "result_type",
]
SUCCESS = {
    "original_text": "a [[good]] film, [[well]]-made in 1990",
    "perturbed_text": "a [[fine]] film, [[ill]]-made in 1990",
    "original_score": 0.125,
    "perturbed_score": 0.75,
    "original_output": 1,
    "perturbed_output": 0,
    "ground_truth_output": 1,
    "num_queries": 27,
    "result_type": "Successful",
}
FAILED = {
    **SUCCESS,
    "perturbed_score": 0.375,
    "perturbed_output": 1,
    "result_type": "Failed",
}
SKIPPED = {
    **SUCCESS,
    "original_text": "no marks here",
    "perturbed_text": "no marks here",
    "original_score": 0.625,
    "perturbed_score": 0.625,
    "original_output": 0,
    "num_queries": 1,
    "result_type": "Skipped",
}


def log(path, *rows, columns=COLUMNS):
    """Text is quoted, numbers are not."""
    out = io.StringIO()
    writer = csv.DictWriter(
        out, columns, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n", extrasaction="ignore"
    )
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(out.getvalue(), encoding="utf-8")
    return path


def both(one):
    return one.found.original, one.found.adversarial


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.csv"


def only(path, **changes):
    (found,) = read_textattack_csv(log(path, {**SUCCESS, **changes}), attack="pwws")
    return found


class TestRows:
    def test_success(self, path):
        found = only(path)
        assert found.found.original == "a good film, well-made in 1990"
        assert found.found.adversarial == "a fine film, ill-made in 1990"
        assert (found.id, found.attack, found.found.context) == (0, "pwws", None)
        assert (found.label, found.prediction, found.adversarial_prediction) == (1, 1, 0)
        assert found.outcome == "fooled"
        assert (found.found.queries, found.forwards, found.found.tokens) == (27, 27, 0)
        assert (found.found.words, found.found.words_changed) == (6, 2)
        assert found.confidence == 0.875
        assert math.isnan(found.adversarial_confidence)
        assert found.found.budget_stopped is False

    def test_failure_keeps_its_last_text(self, path):
        found = only(path, **FAILED)
        assert found.outcome == "robust"
        assert found.found.adversarial == "a fine film, ill-made in 1990"
        assert found.found.words_changed == 2
        assert (found.confidence, found.adversarial_confidence) == (0.875, 0.625)

    def test_skipped(self, path):
        found = only(path, **SKIPPED)
        assert found.outcome == "wrong"
        assert found.found.adversarial == found.found.original == "no marks here"
        assert (found.found.words, found.found.words_changed, found.found.queries) == (3, 0, 1)
        assert math.isnan(found.confidence)
        assert math.isnan(found.adversarial_confidence)

    @pytest.mark.parametrize(
        ("answers", "outcome"),
        [((1, 0), "fooled"), ((1, 1), "robust"), ((0, 0), "wrong"), ((0, 1), "wrong")],
    )
    def test_maximized_is_what_its_answers_say(self, path, answers, outcome):
        before, after = answers
        found = only(path, original_output=before, perturbed_output=after, result_type="Maximized")
        assert found.outcome == outcome

    def test_whole_numbers_as_some_versions_write_them(self, path):
        found = only(path, original_output=1.0, perturbed_output=2.0, num_queries=27.0)
        assert (found.prediction, found.adversarial_prediction, found.found.queries) == (1, 2, 27)
        assert all(type(one) is int for one in (found.prediction, found.found.queries, found.label))

    def test_ids_are_places_and_the_summary_adds_up(self, path):
        rows = [SKIPPED, SUCCESS, FAILED, SUCCESS, FAILED, FAILED]
        records = read_textattack_csv(log(path, *rows), attack="pwws")
        assert [one.id for one in records] == list(range(6))
        found = summarise(records)
        assert (found.clean, found.under_attack) == (Share(5, 6), Share(3, 6))
        assert found.success == Share(2, 5)
        assert found.words_changed == pytest.approx(2 / 6)

    def test_other_columns_and_orders(self, path):
        columns = ["nli", *reversed(COLUMNS)]
        rows = read_textattack_csv(log(path, {**SUCCESS, "nli": "x"}, columns=columns), attack="a")
        assert rows[0].text == "a good film, well-made in 1990"

    def test_records_of_a_log_can_be_kept(self, path, tmp_path):
        records = read_textattack_csv(log(path, SUCCESS, FAILED), attack="pwws")
        with RecordWriter(tmp_path / "records.jsonl") as writer:
            for one in records:
                writer.write(one)
        assert read_records(tmp_path / "records.jsonl")[1] == records[1]

    def test_rounding_beyond_one_is_no_error(self, path):
        assert only(path, original_score=-1e-8).confidence == 1


class TestTexts:
    @pytest.mark.parametrize(
        ("original", "perturbed", "texts", "changed"),
        [
            # a word taken out, put in, split in two
            ("a [[very]] good film", "a good film", ("a very good film", "a good film"), 1),
            ("a good film", "a [[very]] good film", ("a good film", "a very good film"), 1),
            ("a [[good]] film", "a [[go]] [[od]] film", ("a good film", "a go od film"), 2),
            # brackets and quotes of the text's own
            ("([[good]]) [x]", "([[fine]]) [x]", ("(good) [x]", "(fine) [x]"), 1),
            ("[[[good]]]", "[[[fine]]]", ("[good]", "[fine]"), 1),
            ("[[ a [[good]]", "[[ a [[fine]]", ("[[ a good", "[[ a fine"), 1),
            ('say "[[hi]]", ok', 'say "[[ho]]", ok', ('say "hi", ok', 'say "ho", ok'), 1),
            # line breaks
            ("one<SPLIT>[[two]]", "one<SPLIT>[[too]]", ("one\ntwo", "one\ntoo"), 1),
            # not marked: the style "plain"
            ("a good film", "a fine movie", ("a good film", "a fine movie"), 2),
            ("a very good film", "a good film", ("a very good film", "a good film"), 1),
            ("a good film", "a very good film", ("a good film", "a very good film"), 1),
            ("see [[1]]", "see [[1]]", ("see 1", "see 1"), 0),
            ("", "", ("", ""), 0),
        ],
    )
    def test_marks(self, path, original, perturbed, texts, changed):
        found = only(path, original_text=original, perturbed_text=perturbed)
        assert both(found) == texts
        assert found.found.words_changed == changed

    @pytest.mark.parametrize("size", [10, 200_000])
    def test_long_texts(self, path, size):
        found = only(path, original_text="word " * size, perturbed_text="word " * size)
        assert found.found.words == size


PREMISE, HYPOTHESIS = "[[[[Premise]]]]: ", "<SPLIT>[[[[Hypothesis]]]]: "


class TestPairs:
    def test_the_part_that_changed_is_the_text(self, path):
        found = only(
            path,
            original_text=f"{PREMISE}A man rolls.{HYPOTHESIS}A [[child]] rolls.",
            perturbed_text=f"{PREMISE}A man rolls.{HYPOTHESIS}A [[kid]] rolls.",
        )
        assert both(found) == ("A child rolls.", "A kid rolls.")
        assert found.found.context == "A man rolls."
        assert (found.found.words, found.found.words_changed) == (3, 1)

    def test_also_the_first(self, path):
        found = only(
            path,
            original_text=f"{PREMISE}A [[man]] rolls down.{HYPOTHESIS}A child rolls.",
            perturbed_text=f"{PREMISE}A [[bloke]] rolls down.{HYPOTHESIS}A child rolls.",
        )
        assert both(found) == (
            "A man rolls down.",
            "A bloke rolls down.",
        )
        assert found.found.context == "A child rolls."
        assert found.found.words == 4

    def test_the_last_where_none_changed(self, path):
        text = f"{PREMISE}A man rolls.{HYPOTHESIS}A child rolls."
        found = only(path, **{**SKIPPED, "original_text": text, "perturbed_text": text})
        assert both(found) == (
            "A child rolls.",
            "A child rolls.",
        )
        assert found.found.context == "A man rolls."

    def test_all_where_several_changed(self, path):
        found = only(
            path,
            original_text=f"{PREMISE}A [[man]] rolls.{HYPOTHESIS}A [[child]] [[rolls]].",
            perturbed_text=f"{PREMISE}A [[bloke]] rolls.{HYPOTHESIS}A [[kid]] [[runs]].",
        )
        assert found.found.original == "A man rolls.\nA child rolls."
        assert found.found.adversarial == "A bloke rolls.\nA kid runs."
        assert found.found.context is None
        assert (found.found.words, found.found.words_changed) == (6, 3)

    def test_three_parts_and_line_breaks(self, path):
        begin = "[[[[Context]]]]: one<SPLIT>two<SPLIT>[[[[Question]]]]: "
        end = "<SPLIT>[[[[Choice]]]]: that"
        found = only(
            path,
            original_text=f"{begin}[[which]]?{end}",
            perturbed_text=f"{begin}[[what]]?{end}",
        )
        assert both(found) == ("which?", "what?")
        assert found.found.context == "one\ntwo\nthat"

    def test_a_part_begins_on_a_line_of_its_own(self, path):
        text = f"{PREMISE}see [[[[1]]]]: there{HYPOTHESIS}none"
        found = only(path, **{**SKIPPED, "original_text": text, "perturbed_text": text})
        assert found.found.original == "none"
        assert found.found.context == "see [[1]]: there"

    def test_parts_that_do_not_match(self, path):
        with pytest.raises(UserError, match=r"line 2: .* parts"):
            only(path, original_text=f"{PREMISE}A{HYPOTHESIS}B", perturbed_text=f"{PREMISE}A")


class TestRefusals:
    @pytest.mark.parametrize("column", COLUMNS)
    def test_missing_column(self, path, column):
        log(path, SUCCESS, columns=[name for name in COLUMNS if name != column])
        with pytest.raises(UserError, match=f"no column {column};"):
            read_textattack_csv(path, attack="a")

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"result_type": "Won"}, "'Won'; it must be Successful, Failed, Skipped, Maximized"),
            ({"original_output": "a translation"}, "original_output is 'a translation'"),
            ({"ground_truth_output": 2.5}, r"ground_truth_output is '2\.5'"),
            ({"num_queries": ""}, "num_queries is ''"),
            ({"num_queries": -1}, "num_queries is '-1'"),
            ({"original_score": "high"}, "original_score is 'high'"),
            ({"perturbed_score": 3.2}, r"perturbed_score is '3\.2'"),
            ({"perturbed_score": "nan"}, "perturbed_score is 'nan'"),
            ({"result_type": "Failed"}, "Failed, but the answers are 1 and 0 where 1 is right"),
            ({"result_type": "Skipped"}, "Skipped, but"),
            ({"perturbed_output": 1}, "Successful, but the answers are 1 and 1"),
            ({"original_output": 0}, "Successful, but the answers are 0 and 0"),
        ],
        ids=str,
    )
    def test_the_line_of_a_bad_row_is_named(self, path, changes, match):
        rows = [{**SUCCESS, "perturbed_text": "two\nlines"}, FAILED, {**SUCCESS, **changes}]
        with pytest.raises(UserError, match=rf"log\.csv, line 5: .*{match}"):
            read_textattack_csv(log(path, *rows), attack="a")

    def test_too_few_fields(self, path):
        log(path, SUCCESS)
        path.write_text(path.read_text() + '"only one"\n')
        with pytest.raises(UserError, match="line 3: 1 fields where the header has 9"):
            read_textattack_csv(path, attack="a")

    def test_an_open_quote(self, path):
        log(path, SUCCESS)
        path.write_text(path.read_text() + '"cut off')
        with pytest.raises(UserError, match="line 3: unexpected end of data"):
            read_textattack_csv(path, attack="a")

    def test_not_utf8(self, path):
        log(path, SUCCESS, {**SUCCESS, "original_text": "schön"})
        path.write_bytes(path.read_bytes().replace("ö".encode(), b"\xf6"))
        with pytest.raises(UserError, match="line 3: not UTF-8"):
            read_textattack_csv(path, attack="a")

    def test_a_byte_order_mark_is_passed_over(self, path):
        log(path, SUCCESS)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert len(read_textattack_csv(path, attack="a")) == 1

    def test_nothing_in_it(self, path):
        with pytest.raises(UserError, match="no rows"):
            read_textattack_csv(log(path), attack="a")
        path.write_text("")
        with pytest.raises(UserError, match="no rows"):
            read_textattack_csv(path, attack="a")
        with pytest.raises(UserError, match="cannot be read"):
            read_textattack_csv(path.with_name("none.csv"), attack="a")
