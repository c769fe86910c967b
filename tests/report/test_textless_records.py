"""Records whose texts were left out beside records that have theirs."""

import pytest
from made_records import point_record, words_record

from nlp_adv.errors import UserError
from nlp_adv.report.charts import moves_text
from nlp_adv.report.content import ModelResult, Report
from nlp_adv.report.exhibit_words import WordExhibit, examples_of
from nlp_adv.report.unlike import check_same_texts
from nlp_adv.robustness.record import digits_of_text, line

TEXTS = ("a good film", "a poor one")


def records():
    outcomes = ("fooled", "robust")
    return [
        words_record(n, outcomes[n], original=text, example=digits_of_text(text))
        for n, text in enumerate(TEXTS)
    ]


def result(name, found) -> ModelResult:
    return ModelResult(name=name, seed=0, records=found)


def report_of(*models) -> Report:
    return Report(
        title="", protocol={}, protocol_hash="", data="", seed=0, models=models, labels=("0", "1")
    )


def test_only_the_texts_go():
    record = records()[0]
    bare = record.without_text()
    assert all(text.encode() not in line(bare) for text in (*TEXTS, record.found.adversarial))
    assert (bare.title, bare.key, bare.example) == (record.title, record.key, record.example)
    assert bare.found.words_changed == record.found.words_changed
    on_embeddings = point_record(0, text="a good film", epsilon=0.1)
    bare = on_embeddings.without_text()
    assert bare.title == on_embeddings.title  # a text's attack, not an image's
    assert bare.norm("l2") == on_embeddings.norm("l2")
    image = point_record(0)
    assert image.without_text() == image


def test_a_text_is_known_by_its_digits():
    whole, bare = records(), [one.without_text() for one in records()]
    check_same_texts([result("here", whole), result("there", bare)])
    check_same_texts([result("there", bare), result("here", whole)])
    swapped = [one.without_text() for one in reversed(records())]
    others = [
        words_record(n, one.outcome, original="", adversarial="", example=one.example)
        for n, one in enumerate(swapped)
    ]
    with pytest.raises(UserError, match="not the text"):
        check_same_texts([result("here", whole), result("there", others)])


def test_examples_are_of_the_models_that_have_texts():
    whole, bare = records(), [one.without_text() for one in records()]
    assert moves_text(bare)
    one_has_them = report_of(result("there", bare), result("here", whole))
    assert {found.model.name for found in examples_of(one_has_them, "swap")} == {"here"}
    nobody_has_them = report_of(result("there", bare))
    assert examples_of(nobody_has_them, "swap") == []
    (section,) = WordExhibit(["swap"]).sections(nobody_has_them)
    shown = str(section.parts)
    assert "records of swap came without their texts" in " ".join(shown.split())
    assert "No text differs" not in shown
