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


def config_of(*names: str) -> SimpleNamespace:
    return SimpleNamespace(
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )


def declared(names: list[str], values: list[int]) -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_list([{"text": "a", "label": value} for value in values], features=features)


def undeclared(values: list) -> list[dict]:
    return [{"text": "a", "label": value} for value in values]


NLI = ["entailment", "neutral", "contradiction"]
SWAPPED = config_of("CONTRADICTION", "NEUTRAL", "ENTAILMENT")


@pytest.mark.fault("E1")
@pytest.mark.parametrize(
    ("names", "config", "numbers"),
    [
        (NLI, SWAPPED, [2, 1, 0]),
        (NLI, config_of("Contradiction", "Entailment", "Neutral"), [1, 2, 0]),
        (["yes", "no"], CONFIG, [1, 0]),
        (["entailment", "not_entailment"], config_of("not entailment", "Entailment"), [1, 0]),
        (["not-entailment", "entailment"], config_of("ENTAILMENT", "NOT_ENTAILMENT"), [1, 0]),
        (["Sci_Tech", "world"], config_of("World", "Sports", "Business", "Sci/Tech"), [3, 0]),
        (["LABEL_1", "LABEL_0"], config_of("LABEL_0", "LABEL_1"), [1, 0]),
        (["1", "-1"], config_of("-1", "0", "1"), [2, 0]),
        # Two classes that are one without regard to case keep theirs.
        (["us", "US", "Us"], config_of("US", "Us", "us"), [2, 0, 1]),
    ],
    ids=str,
)
def test_classes_are_matched_by_name(names, config, numbers):
    data = attack_data(declared(names, list(range(len(names)))), config)
    assert [text.label for text in data.texts] == numbers
    assert data.notes == ()
    assert data.labels == tuple(config.id2label.values())
    # The same names as plain strings.
    assert [text.label for text in attack_data(undeclared(names), config).texts] == numbers


@pytest.mark.fault("E1")
@pytest.mark.parametrize(
    ("data", "config", "numbers", "said"),
    [
        (declared(["bad", "good"], [0, 1]), CONFIG, [0, 1], ["bad as no", "good as yes"]),
        (declared(NLI, [2, 0]), config_of("LABEL_0", "LABEL_1", "LABEL_2"), [2, 0], NLI),
        (declared(["0", "1", "3"], [2]), config_of("a", "b", "c", "d"), [3], ["3 as d"]),
        (declared(["LABEL_0", "LABEL_1"], [1]), CONFIG, [1], ["LABEL_1 as yes"]),
        (undeclared([0, 2, 1]), SWAPPED, [0, 2, 1], ["0 CONTRADICTION", "2 ENTAILMENT"]),
        (undeclared(["1", "0"]), CONFIG, [1, 0], ["0 no", "1 yes"]),
        (undeclared(["1.0", "LABEL_0"]), CONFIG, [1, 0], ["0 no", "1 yes"]),
    ],
    ids=str,
)
def test_an_order_that_was_assumed_is_said(data, config, numbers, said):
    found = attack_data(data, config)
    assert [text.label for text in found.texts] == numbers
    (note,) = found.notes
    assert all(part in note for part in said)


@pytest.mark.fault("E1")
def test_nothing_is_said_where_there_is_no_name_to_swap():
    for names in (["LABEL_0", "LABEL_1"], ["0", "1"]):
        found = attack_data(undeclared([1, 0]), config_of(*names))
        assert [text.label for text in found.texts] == [1, 0]
        assert found.notes == ()


@pytest.mark.fault("E1")
def test_numbers_that_are_names_are_matched_by_name():
    """As of a model trained on the ratings 1 to 5, or on -1 and 1."""
    stars = config_of("1", "2", "3", "4", "5")
    assert [text.label for text in attack_data(undeclared([5, 1, 2]), stars).texts] == [4, 0, 1]
    signs = config_of("-1", "1")
    assert [text.label for text in attack_data(undeclared([1, -1]), signs).texts] == [1, 0]
    with pytest.raises(UserError, match=r"no class of the model \(1, 2, 3, 4, 5\)"):
        attack_data(undeclared([0]), stars)


@pytest.mark.fault("E1")
@pytest.mark.parametrize(
    ("data", "config", "words"),
    [
        (
            declared(["neg", "pos"], [0]),
            config_of("NEGATIVE", "NEUTRAL", "POSITIVE"),
            "not as many",
        ),
        (declared(["entailment", "not_entailment"], [0, 1]), SWAPPED, "Row 2.*'not_entailment'"),
        (declared(["no", "yes"], [1, -1]), CONFIG, "Row 2.*none of the model's 2 classes"),
    ],
    ids=str,
)
def test_names_that_cannot_be_read_are_refused(data, config, words):
    with pytest.raises(UserError, match=words):
        attack_data(data, config)


@pytest.mark.fault("E1")
def test_two_tables_of_names():
    """id2label is what a logit means; label2id is looked at where that names nothing."""
    config = config_of("no", "yes")
    config.label2id = {"no": 1, "yes": 0}
    found = attack_data(undeclared(["yes", "no"]), config)
    assert [text.label for text in found.texts] == [1, 0]
    assert "id2label was followed" in found.notes[0]
    config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    found = attack_data(undeclared(["yes", "no"]), config)
    assert ([text.label for text in found.texts], found.notes) == ([0, 1], ())
    assert found.labels == ("yes", "no")


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
        ([{"text": "a", "label": [0, 1]}], "no class of the model"),
        ([{"text": "a", "label": True}], "no class of the model"),
        ([{"text": "a", "label": None}], "no class of the model"),
        ([{"text": 3, "label": 0}], "not text"),
    ],
)
def test_bad_data_is_refused(rows, words):
    with pytest.raises(UserError, match=words):
        attack_data(rows, CONFIG)
