"""A function of texts under attack: what it is asked, remembered, refused; equal to a model."""

import time

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from toy_attacks import neighbours
from toy_victims import SENTENCES, bert, tokenizer_of

from nlp_adv.attacks.words.predictor import Predictor, predictor_at
from nlp_adv.errors import UserError
from nlp_adv.robustness import Resources, WhiteBox, embedding_pgd, evaluate_robustness
from nlp_adv.robustness.fingerprint import fingerprint

TOKENIZER = tokenizer_of("wordpiece")
ROWS = [{"text": text, "label": n % 3} for n, text in enumerate(SENTENCES[:6])]


def by_tokens(texts: list) -> torch.Tensor:
    """The toy BERT as a function of texts."""
    pairs = [one if isinstance(one, tuple) else (one,) for one in texts]
    columns = [list(column) for column in zip(*pairs, strict=True)]
    batch = TOKENIZER(*columns, padding=True, truncation=True, max_length=64, return_tensors="pt")
    with torch.no_grad():
        return bert()(**batch).logits


def attacked(model, tokenizer, attacks=("deepwordbug", "textfooler"), **options):
    settings = {"resources": Resources(neighbours=neighbours()), **options}
    settings.setdefault("dataset", ROWS)
    rows = settings.pop("dataset")
    return evaluate_robustness(
        model, tokenizer, rows, attacks, max_length=64, progress=False, **settings
    )


def outcomes(found) -> list[tuple]:
    return [
        (r.id, r.attack, r.outcome, r.forwards, r.found.adversarial, r.prediction)
        for r in found.records
    ]


@pytest.mark.parametrize("pairs", [False, True])
def test_a_function_is_attacked_as_the_model_in_it(pairs):
    rows = [{**row, "text2": SENTENCES[-1]} for row in ROWS] if pairs else ROWS
    columns = {"text_columns": ["text2", "text"]} if pairs else {}
    model = Predictor(by_tokens, name="toy", classes=[*"abc"])
    # A function has no unknown token, so that words are taken out to see what they say; the model
    # in this one has.
    model.tokenizer.unk_token = TOKENIZER.unk_token
    found = attacked(model, model.tokenizer, ["textfooler"], dataset=rows, **columns)
    own = attacked(bert(), TOKENIZER, ["textfooler"], dataset=rows, **columns)
    assert outcomes(found) == outcomes(own)
    assert {outcome for _, _, outcome, *_ in outcomes(found)} >= {"fooled"}
    assert found.environment["device"].startswith("cpu")


def test_a_text_is_asked_for_once():
    asked: list[str] = []

    def predict(texts):
        asked.extend(texts)
        return by_tokens(texts)

    model = Predictor(predict, name="toy", batch_size=3)
    found = attacked(model, model.tokenizer)
    again = 2 * len(ROWS)  # to see whether the function answers alike
    assert len(asked) == model.asked == len(set(asked)) + again
    assert model.asked - again < sum(record.forwards for record in found.records)
    attacked(model, model.tokenizer)
    assert len(asked) == model.asked == len(set(asked)) + 2 * again


def test_no_more_texts_a_call_and_a_second():
    sizes, began = [], time.monotonic()

    def predict(texts):
        sizes.append(len(texts))
        return np.zeros((len(texts), 2))

    model = Predictor(predict, name="api", batch_size=2, per_second=100, remembered=2)
    rows = model.tokenizer([f"text {n}" for n in range(5)])["input_ids"]
    ids = torch.tensor(rows)
    assert model(ids, torch.ones_like(ids)).shape == (5, 2)
    assert sizes == [2, 2, 1]
    assert time.monotonic() - began >= 0.04
    model(ids[3:], torch.ones_like(ids[3:]))
    assert len(sizes) == 3
    model(ids[:1], torch.ones_like(ids[:1]))
    assert len(sizes) == 4


def test_probabilities_become_their_logarithms():
    rows = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.9, 0.1]], dtype=torch.float64)
    model = Predictor(lambda texts: rows.tolist(), name="toy")
    ids = torch.tensor(model.tokenizer(["a", "b", "c"])["input_ids"])
    logits = model(ids, torch.ones_like(ids))
    assert torch.isfinite(logits).all()
    assert torch.equal(logits[2], rows[2].log())
    assert torch.equal(logits.argmax(1), rows.argmax(1))


def test_scikit_learn():
    """A typo makes a word unknown, and without it one answer is as likely as the other."""
    texts = [f"{word} {noun}" for noun in ("film", "plot", "score") for word in ("good", "awful")]
    names = ["fine", "poor"] * 3
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100.0)).fit(texts, names)
    model = Predictor(pipeline.predict_proba, name="tf-idf", classes=pipeline.classes_)
    rows = [{"text": text, "label": name} for text, name in zip(texts, names, strict=True)]
    found = attacked(model, model.tokenizer, ["deepwordbug"], dataset=rows)
    assert tuple(found.labels) == ("fine", "poor")
    fooled = [record for record in found.records if record.outcome == "fooled"]
    assert fooled
    for record in fooled:
        (said,) = pipeline.predict([record.found.adversarial])
        assert said != found.labels[record.label]


def test_texts_are_what_they_were():
    """Of every script, empty, of one character, with signs beyond the basic plane."""
    seen: list[str] = []

    def predict(texts):
        seen.extend(texts)
        return np.zeros((len(texts), 2))

    model = Predictor(predict, name="toy")
    texts = ["", "a", "naïve 漢字 👩‍👩‍👧", "ends with space "]
    given = model.tokenizer(texts)["input_ids"]
    for ids in given:
        row = torch.tensor([ids or [model.tokenizer.pad_token_id]])
        model(row, torch.ones_like(row))
    pair = torch.tensor(model.tokenizer(["one"], ["two"])["input_ids"])
    model(pair, torch.ones_like(pair))
    assert seen == [*texts, ("one", "two")]


def test_two_functions_are_two_models():
    assert fingerprint(Predictor(by_tokens, name="v1")) != fingerprint(
        Predictor(by_tokens, name="v2")
    )


class TestRefusals:
    @pytest.mark.parametrize("attack", ["a2t", "hotflip"])
    def test_attacks_by_gradients(self, attack):
        model = Predictor(by_tokens, name="toy v1")
        with pytest.raises(UserError, match="toy v1 is a function of texts and shows no gradient"):
            attacked(model, model.tokenizer, [attack])

    def test_attacks_on_embeddings(self):
        model = Predictor(by_tokens, name="toy v1")
        with pytest.raises(UserError, match="shows no gradient"):
            attacked(model, model.tokenizer, white_box=WhiteBox(embedding_pgd((0.1,))))

    @pytest.mark.parametrize(
        ("scores", "words"),
        [
            (lambda n: ["good"] * n, "holds no numbers"),
            (lambda n: np.zeros(n), "scores of shape"),
            (lambda n: np.zeros((n + 1, 2)), "for 1 texts"),
            (lambda n: np.zeros((n, 1)), "two classes or more"),
            (lambda n: np.zeros((n, 4)), "4 scores a text, and has 2 classes"),
        ],
    )
    def test_scores_that_are_none(self, scores, words):
        model = Predictor(lambda texts: scores(len(texts)), name="toy", classes=("a", "b"))
        ids = torch.tensor([[97]])
        with pytest.raises(UserError, match=words):
            model(ids, torch.ones_like(ids))

    def test_numbers_that_mean_nothing(self):
        for wrong in ({"name": ""}, {"name": "a", "batch_size": 0}, {"name": "a", "per_second": 0}):
            with pytest.raises(UserError):
                Predictor(by_tokens, **wrong)


class TestPlaces:
    def test_a_file_and_a_name(self, tmp_path):
        (tmp_path / "beside.py").write_text("VALUE = 2.0\n")
        (tmp_path / "own.py").write_text(
            "from beside import VALUE\nCLASSES = ('a', 'b')\n"
            "def scores(texts):\n    return [[0.0, VALUE] for _ in texts]\n"
        )
        model = predictor_at(f"{tmp_path}/own.py:scores")
        ids = torch.tensor([[97]])
        assert model(ids, torch.ones_like(ids)).tolist() == [[0.0, 2.0]]
        assert model.config.id2label == {0: "a", 1: "b"}
        assert predictor_at("bert-base-uncased") is None

    def test_a_changed_file_is_another_model(self, tmp_path):
        path, found = tmp_path / "own.py", []
        for value in (0.0, 1.0):
            path.write_text(f"def scores(texts):\n    return [[0.0, {value}] for _ in texts]\n")
            found.append(fingerprint(predictor_at(f"{path}:scores")))
        assert found[0] != found[1]

    @pytest.mark.parametrize(
        ("text", "name", "words"),
        [
            (None, "scores", "There is no file"),
            ("scores = 3", "scores", "has no function 'scores'"),
            ("import nothing_of_that_name", "scores", "cannot be run: ModuleNotFoundError"),
        ],
    )
    def test_what_is_wrong_with_it(self, tmp_path, text, name, words):
        path = tmp_path / "own.py"
        if text is not None:
            path.write_text(text)
        with pytest.raises(UserError, match=words):
            predictor_at(f"{path}:{name}")
