"""Which texts are attacked: columns, labels as the model has them, a draw that does not move."""

from types import SimpleNamespace

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from nlp_adv.errors import UserError
from nlp_adv.robustness.data import attack_data

CONFIG = SimpleNamespace(num_labels=2, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
PAIRS = [{"premise": f"p{n}", "hypothesis": f"h{n}", "label": n % 2} for n in range(20)]


@pytest.mark.parametrize(("part", "mine", "other"), [("first", "p", "h"), ("second", "h", "p")])
def test_the_protocol_names_the_attacked_part(part, mine, other):
    data = attack_data(PAIRS, CONFIG, part=part)
    assert [(t.text, t.context) for t in data.texts] == [
        (f"{mine}{n}", f"{other}{n}") for n in range(20)
    ]
    assert data.columns == ("premise", "hypothesis")


def test_a_single_text_has_no_context_whatever_the_part():
    for part in ("first", "second"):
        (text,) = attack_data([{"text": "one", "label": 1}], CONFIG, part=part).texts
        assert (text.text, text.context, text.label) == ("one", None, 1)


@pytest.mark.parametrize("values", [[0, 1], ["no", "yes"], ["0", "1"]])
def test_labels_are_numbers_or_the_models_names(values):
    rows = [{"text": "a", "label": value} for value in values]
    assert [text.label for text in attack_data(rows, CONFIG).texts] == [0, 1]


def test_names_of_the_data_set_win_over_its_numbers():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["yes", "no"])})
    data = Dataset.from_list([{"text": "a", "label": 0}], features=features)
    assert attack_data(data, CONFIG).texts[0].label == 1


def test_names_that_the_model_does_not_know_leave_the_numbers():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    data = Dataset.from_list([{"text": "a", "label": 0}], features=features)
    assert attack_data(data, CONFIG).texts[0].label == 0


def test_the_draw_depends_on_the_seed_alone():
    drawn = [attack_data(PAIRS, CONFIG, max_examples=7, seed=3) for _ in range(2)]
    assert drawn[0].texts == drawn[1].texts
    assert drawn[0].fingerprint == drawn[1].fingerprint
    ids = [text.id for text in drawn[0].texts]
    assert len(set(ids)) == 7
    assert ids == sorted(ids)
    assert ids != [text.id for text in attack_data(PAIRS, CONFIG, max_examples=7, seed=4).texts]
    together = sorted([*drawn[0].texts, *drawn[0].rest], key=lambda text: text.id)
    assert together == list(attack_data(PAIRS, CONFIG).texts)


@pytest.mark.parametrize("change", [{"hypothesis": "other"}, {"label": 1}, {"premise": "other"}])
def test_the_fingerprint_is_of_texts_and_labels(change):
    changed = [{**PAIRS[0], **change}, *PAIRS[1:]]
    assert attack_data(changed, CONFIG).fingerprint != attack_data(PAIRS, CONFIG).fingerprint


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "empty"),
        ([{"text": "a", "label": 2}], "2 classes"),
        ([{"text": "a", "label": -1}], "none of the model's"),
        ([{"text": "a", "label": "maybe"}], "no class of the model"),
        ([{"text": "a", "label": 0.5}], "no class of the model"),
        ([{"text": 3, "label": 0}], "not text"),
    ],
)
def test_bad_data_is_refused(rows, words):
    with pytest.raises(UserError, match=words):
        attack_data(rows, CONFIG)
