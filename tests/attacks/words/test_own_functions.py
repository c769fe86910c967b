"""Functions of one's own and protected words: what they do, their hash, what is refused."""

import functools
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from toy_attacks import ATTACKS, attack_named, bag_of_words, neighbours, oracles
from toy_victims import FREE, SENTENCES, attacked, engine_of, light, right_texts, tokenizer_of

from nlp_adv.attacks.words.attacks import PWWS, TextFooler
from nlp_adv.attacks.words.attacks.build import Resources, attack_hash, build_attack, build_engine
from nlp_adv.attacks.words.constraints import Constraints
from nlp_adv.attacks.words.encoding import Splicer
from nlp_adv.attacks.words.example import Goal, SimilarityRequest
from nlp_adv.attacks.words.language_models import Similarity
from nlp_adv.attacks.words.own_functions import OwnFunction, found_at
from nlp_adv.attacks.words.protocols import PROTOCOLS, Protocol
from nlp_adv.attacks.words.victim import Victim
from nlp_adv.attacks.words.words import Words, characters
from nlp_adv.errors import UserError
from nlp_adv.robustness import Predictor, evaluate_robustness

ROWS = [{"text": text, "label": n % 3} for n, text in enumerate(SENTENCES[:6])]

TWO = [{"text": text, "label": n % 2} for n, text in enumerate(SENTENCES[:6])]


def even(original: str, texts: list[str]) -> list[bool]:
    """A constraint on whole texts, which two changes can break that pass alone."""
    return [(len(text) - len(original)) % 2 == 0 for text in texts]


@dataclass(frozen=True)
class Longer:
    """A constraint with a name and a version."""

    most: int
    name: str = "longer"
    version: str = "2"

    def __call__(self, original: str, texts: list[str]) -> list[bool]:
        return [len(text) <= len(original) + self.most for text in texts]


def far(logits: torch.Tensor, label: int) -> torch.Tensor:
    """A goal: the answer is two classes away."""
    return (logits.argmax(1) - label).abs() - 1.5


def constrained(function, model=None, protocol=FREE, **options):
    engine = engine_of(model, protocol, oracles=oracles(), **options)
    engine.constraints = Constraints(protocol, None, [OwnFunction.of("constraint", function)])
    return engine


class TestConstraints:
    @pytest.mark.parametrize("name", ATTACKS)
    def test_no_attack_ends_with_a_text_that_is_refused(self, name):
        texts = right_texts(texts=SENTENCES[:6])
        free = attacked(engine_of(protocol=FREE, oracles=oracles()), attack_named(name), texts)
        found = attacked(constrained(even), attack_named(name), texts)
        assert all(even(one.original, [one.adversarial])[0] for one in found)
        assert any(one.adversarial != one.original for one in found)
        assert any(not even(one.original, [one.adversarial])[0] for one in free) or name in (
            *("bae", "random", "hotflip", "textbugger"),
        )

    def test_what_is_refused_is_not_asked_about(self):
        texts = right_texts(texts=SENTENCES[:4])
        found = attacked(
            constrained(lambda original, some: [False] * len(some)), TextFooler(neighbours()), texts
        )
        for one in found:
            places = Constraints(FREE).places(Words.of(one.original))
            assert (one.outcome, one.queries) == ("robust", 1 + len(places))

    def test_one_that_allows_all_changes_nothing(self):
        texts = right_texts(texts=SENTENCES)
        for attack in (TextFooler(neighbours()), PWWS(neighbours())):
            engine = constrained(lambda original, some: np.ones(len(some), dtype=bool))
            assert attacked(engine, attack, texts) == attacked(engine_of(), attack, texts)


class TestGoals:
    def test_margin_as_a_goal_of_ones_own(self):
        """The untargeted goal, written again, finds the same with as many queries."""

        def margin(logits, label):
            others = logits.clone()
            others[:, label] = -torch.inf
            return others.amax(1) - logits[:, label]

        texts = right_texts(texts=SENTENCES)
        own = engine_of(goal=OwnFunction.of("goal", margin))
        for attack in (TextFooler(neighbours()), PWWS(neighbours())):
            assert attacked(own, attack, texts) == attacked(engine_of(), attack, texts)

    def test_fooled_means_the_goal(self):
        texts = right_texts(texts=SENTENCES)
        engine = engine_of(goal=OwnFunction.of("goal", far))
        found = attacked(engine, TextFooler(neighbours()), texts)
        assert {one.outcome for one in found} == {"robust", "fooled"}
        for one in found:
            apart = abs(one.adversarial_prediction - one.label)
            assert (one.outcome == "fooled") == (apart == 2)

    def test_answers_that_are_none(self):
        goal = Goal(None, OwnFunction.of("goal", far))
        logits = torch.tensor([[0.0, 0, torch.nan], [1, 0, 0], [0, 0, 1]])
        assert goal.judged(logits, 0) == [(torch.inf, True), (-1.5, False), (0.5, True)]

    def test_refusals(self):
        parts = Victim(light(), tokenizer_of("wordpiece")), Splicer(tokenizer_of("wordpiece"), 40)
        resources = Resources(neighbours=neighbours(), goal=far)
        with pytest.raises(UserError, match="a target; give one"):
            build_engine(*parts, PROTOCOLS["default"], resources, target=1)
        for name in ("a2t", "hotflip"):
            with pytest.raises(UserError, match=f"{name} follows the gradient"):
                build_attack(name, resources, *parts)


class TestIdentity:
    def test_name_and_version_enter_the_hash(self):
        def other(original: str, texts: list[str]) -> list[bool]:
            return [True for _ in texts]

        attack = TextFooler(neighbours())
        hashes = [
            attack_hash(attack, FREE, Resources(**given))
            for given in (
                {},
                {"constraints": [even]},
                {"constraints": [other]},
                {"constraints": [Longer(1)]},
                {"constraints": [replace(Longer(1), version="3")]},
                {"constraints": [replace(Longer(1), name="x")]},
                {"constraints": [Longer(1), even]},
                {"goal": far},
                {"segmenter": str.split, "segmenter_name": "a"},
                {"segmenter": characters},
                {"segmenter": lambda text: text.split()},
                {"segmenter": lambda text: text.split(" ")},
            )
        ]
        assert len(set(hashes)) == len(hashes)
        # A version says what counts; order does not.
        assert hashes[3] == attack_hash(attack, FREE, Resources(constraints=[Longer(9)]))
        assert hashes[6] == attack_hash(attack, FREE, Resources(constraints=[even, Longer(1)]))

    def test_two_taggers_are_two_hashes(self):
        protocol = replace(FREE, same_part_of_speech=True)
        taggers = (
            lambda words: ["X"] * len(words),
            lambda words: ["Y"] * len(words),
        )
        found = {
            attack_hash(TextFooler(neighbours()), protocol, Resources(tagger=one))
            for one in taggers
        }
        assert len(found) == 2

    def test_without_a_version_the_source_stands_for_it(self):
        assert "no version, and a hash of its source" in OwnFunction.of("constraint", even).note()
        assert OwnFunction.of("constraint", Longer(1)).note().endswith("is of version 2.")
        one, two = (OwnFunction.of("goal", functools.partial(far, label=n)) for n in (0, 1))
        assert one.version != two.version

    @pytest.mark.parametrize("function", [len, functools.partial(max, 3), np.add])
    def test_nothing_to_be_known_by(self, function):
        with pytest.raises(UserError, match="neither a version nor a source"):
            OwnFunction.of("constraint", function)

    def test_nothing_to_call(self):
        with pytest.raises(UserError, match="nothing that can be called"):
            OwnFunction.of("goal", 3)

    def test_a_function_of_a_file(self, tmp_path):
        path = tmp_path / "mine.py"
        path.write_text("def a(x, y):\n    return [True] * len(y)\n\nb = a\nb.version = '7'\n")
        found = found_at(f"{path}:a")
        assert OwnFunction.of("constraint", found.value, found).fingerprint == "a 7"
        path.write_text("def a(x, y):\n    return [True] * len(y)\n")
        found = found_at(f"{path}:a")
        own = OwnFunction.of("constraint", found.value, found)
        assert own.unversioned
        path.write_text("LIMIT = 3\n" + path.read_text())  # the function's own lines are the same
        other = found_at(f"{path}:a")
        assert OwnFunction.of("constraint", other.value, other).version != own.version


def failing(*_):
    raise KeyError("no such thing")


CHANCE = iter([True, False] * 500)
BAD = [
    (failing, r"constraint failing failed on the text '.*' \(KeyError: 'no such thing'\)"),
    (lambda original, texts: None, "failed on the text .*'NoneType' object is not iterable"),
    (lambda original, texts: True, "failed on the text .*'bool' object is not iterable"),
    (lambda original, texts: [True], r"returned .* for \d+ texts"),
    (lambda original, texts: [0.5] * len(texts), r"returned .* for \d+ texts"),
    (lambda original, texts: ["no"] * len(texts), "True or False for each"),
    (lambda original, texts: [next(CHANCE)] + [True] * (len(texts) - 1), "gave two answers"),
    (lambda texts: [True] * len(texts), "failed on the text .*positional argument"),
]
BAD_GOALS = [
    (failing, r"goal failing failed on the text '.*' \(KeyError"),
    (lambda logits, label: None, "a finite number for each row"),
    (lambda logits, label: logits, "a finite number for each row"),
    (lambda logits, label: logits[:, 0] * torch.nan, "a finite number for each row"),
    (lambda logits, label: 1.0, "a finite number for each row"),
    (lambda logits, label: torch.rand(len(logits)), "gave two answers"),
]


class TestFailures:
    @pytest.mark.parametrize(("function", "words"), BAD)
    def test_constraints(self, function, words):
        with pytest.raises(UserError, match=words) as caught:
            attacked(constrained(function), TextFooler(neighbours()), right_texts())
        assert str(caught.value).startswith("The constraint ")

    @pytest.mark.parametrize(("function", "words"), BAD_GOALS)
    def test_goals(self, function, words):
        engine = engine_of(goal=OwnFunction.of("goal", function))
        with pytest.raises(UserError, match=words) as caught:
            attacked(engine, TextFooler(neighbours()), right_texts())
        assert str(caught.value).startswith("The goal ")

    def test_the_text_that_fails_is_named(self):
        def picky(texts):
            if any("dull" in text for text in texts):
                raise ValueError("no dull texts")
            return np.zeros((len(texts), 2))

        model = Predictor(picky, name="my api")
        rows = [{"text": text, "label": 0} for text in ("a fine film", "a dull film")]
        with pytest.raises(
            UserError, match=r"my api failed on the text 'a dull film' \(ValueError"
        ):
            evaluate_robustness(model, model.tokenizer, rows, progress=False)

    def test_memory_that_ends_is_not_a_failure(self):
        """The engine halves its batches then."""
        sizes = []

        def predict(texts):
            sizes.append(len(texts))
            if len(texts) > 1:
                raise torch.OutOfMemoryError
            return np.eye(2)[:1]

        model = Predictor(predict, name="toy")
        evaluate_robustness(model, model.tokenizer, TWO, "static", progress=False)
        assert max(sizes) > 1 == sizes[-1]

    @pytest.mark.parametrize("returned", [None, "dull film", 3])
    def test_segmenters(self, returned):
        with pytest.raises(UserError, match=r"The segmenter .*lambda.* returned"):
            Words.of("dull film", lambda text: returned)
        with pytest.raises(UserError, match="The segmenter failing failed on the text 'dull film'"):
            Words.of("dull film", failing)

    @pytest.mark.parametrize(
        ("tagger", "words"),
        [
            (failing, "The tagger failing failed on the text"),
            (lambda words: ["X"], "a part of speech for each"),
            (lambda words: [1] * len(words), "a part of speech for each"),
        ],
    )
    def test_taggers(self, tagger, words):
        protocol = replace(FREE, same_part_of_speech=True)
        engine = engine_of(protocol=protocol, tagger=tagger)
        with pytest.raises(UserError, match=words):
            attacked(engine, TextFooler(neighbours()), right_texts())

    @pytest.mark.parametrize(
        ("encoder", "words"),
        [
            (failing, "The sentence encoder failing failed on the text"),
            (lambda texts: np.zeros(len(texts)), "a row of finite numbers for each"),
            (lambda texts: bag_of_words(texts)[1:], "a row of finite numbers for each"),
            (lambda texts: bag_of_words(texts) * np.nan, "a row of finite numbers for each"),
            (lambda texts: [["a"]] * len(texts), "a row of finite numbers for each"),
        ],
    )
    def test_sentence_encoders(self, encoder, words):
        protocol = replace(FREE, min_similarity=0.5)
        engine = engine_of(protocol=protocol, oracles={SimilarityRequest: Similarity(encoder)})
        with pytest.raises(UserError, match=words):
            attacked(engine, TextFooler(neighbours()), right_texts())


class TestProtected:
    def free(self, text: str, protected, segmenter=None) -> list[str]:
        words = Words.of(text, segmenter)
        constraints = Constraints(Protocol(name="x", stop_words="none", protected=protected))
        return [words.words[place] for place in constraints.places(words)]

    @pytest.mark.parametrize(
        ("text", "protected", "left"),
        [
            ("Nokia phones and NOKIA, nokias", ["nokia"], "phones and nokias"),
            ("New York is new; new  york", ["New York"], "is new"),
            ("the U.S. team in us", ["U.S."], "the team in us"),
            ("it isn’t dull", ["ISN'T"], "it dull"),
            ("New York, New Jersey", ["New York", "york new"], "New Jersey"),
            ("a b", [], ""),
        ],
    )
    def test_words_and_phrases(self, text, protected, left):
        assert " ".join(self.free(text, protected)) == left

    def test_whatever_the_words_of_a_text_are(self):
        assert self.free("这部电影很好", ["电影"], lambda text: ["这部", "电影", "很好"]) == [
            *("这部", "很好")
        ]
        protocol = Protocol(name="x", stop_words="none", min_length=1, protected=["电影"])
        words = Words.of("这部电影很好", characters)
        assert [words.words[p] for p in Constraints(protocol).places(words)] == [*"这部很好"]

    def test_no_attack_touches_them(self):
        protocol = replace(FREE, protected=["dull", "music", "isn't brilliant"])
        for name in ATTACKS:
            engine = engine_of(protocol=protocol, oracles=oracles())
            for one in attacked(engine, attack_named(name), right_texts()):
                for kept in ("dull", "music", "isn't brilliant"):
                    before, after = (t.count(kept) for t in (one.original, one.adversarial))
                    assert after >= before

    def test_the_hash(self, tmp_path):
        plain = Protocol(name="x")
        # As it was before there were protected words: numbers of then stay comparable.
        assert "protected" not in plain.described()
        assert PROTOCOLS["default"].hash() == "d8d09d62ccb6"
        kept = Protocol(name="x", protected=["New York", "film"])
        assert len({plain.hash(), kept.hash(), Protocol(name="x", protected="film").hash()}) == 3
        assert Protocol(**kept.described()) == kept
        (tmp_path / "a.txt").write_text("new  york\n\nFilm\n")
        (tmp_path / "a.json").write_text('["Film", "New York"]')
        for file in ("a.txt", "a.json"):
            assert Protocol(name="x", protected=str(tmp_path / file)).hash() == kept.hash()

    @pytest.mark.parametrize(
        ("setting", "words"),
        [
            (["..."], "holds no letter"),
            ("no/such.txt", "no file that can be read"),
            ([3], "holds 3"),
            (7, "holds 7"),
        ],
    )
    def test_refusals(self, setting, words):
        with pytest.raises(UserError, match=words):
            Protocol(name="x", protected=setting)


def test_an_evaluation_says_whose_functions_it_used():
    found = evaluate_robustness(
        light(),
        tokenizer_of("wordpiece"),
        ROWS,
        "deepwordbug",
        resources=Resources(constraints=[Longer(0), even], goal=far),
        progress=False,
        max_length=40,
    )
    notes = " ".join(found.notes)
    assert "The constraint longer is of version 2. Texts that it refuses" in notes
    assert "The constraint even has no version, and a hash of its source" in notes
    assert "The goal far has no version" in notes
    assert {record.outcome for record in found.records} >= {"wrong", "robust"}
