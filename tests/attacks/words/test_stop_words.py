"""Stop words: which words an attack may not touch, and that the setting is part of the hash."""

import json

import pytest

from nlp_adv.attacks.words.constraints import Constraints
from nlp_adv.attacks.words.protocols import PROTOCOLS, Protocol
from nlp_adv.attacks.words.stop_words import ENGLISH_STOP_WORDS
from nlp_adv.attacks.words.words import Words
from nlp_adv.errors import UserError
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.saved import load, save


def free(text: str, stop_words="english", **numbers) -> list[str]:
    """The words of a text that may be changed."""
    words = Words.of(text)
    protocol = Protocol(name="x", stop_words=stop_words, **numbers)
    return [words.words[place] for place in Constraints(protocol).places(words)]


@pytest.mark.fault("E4")
def test_content_is_free_and_negations_are_not():
    words = Words.of("it isn't sincere , don't go")
    places = Constraints(Protocol(name="x")).places(words)
    assert [words.words[place] for place in places] == ["sincere", "go"]


VERBS = ["is", "are", "was", "were", "has", "have", "had", "do", "does", "did", "could", "should"]
CONTENT = (
    "sincere serious well full interest found good bad great find fire bill system computer mill",
    "cry fill show made thick thin detail describe empty won ai amount name whole top keep seem",
    "first last part side move please like love hate best worst better",
)


@pytest.mark.fault("E4")
@pytest.mark.parametrize("word", " ".join(CONTENT).split())
def test_no_word_of_content_is_a_stop_word(word):
    assert free(word) == [word]
    assert word not in ENGLISH_STOP_WORDS


@pytest.mark.fault("E4")
@pytest.mark.parametrize("verb", VERBS)
def test_negations_in_every_spelling(verb):
    spellings = [
        "{v}n't",
        "{v}n’t",
        "{v} n't",
        "{v} n’t",
        "{v}n 't",
        "{v}n ' t",
        "{v}nt",
        "{v} not",
    ]
    for spelling in spellings:
        written = spelling.format(v=verb)
        for text in (written, written.upper(), written.capitalize()):
            assert free(f"{text} sincere", min_length=1) == ["sincere"], text


@pytest.mark.fault("E4")
@pytest.mark.parametrize(
    "text",
    [
        *("can't", "ca n't", "can 't", "cannot", "can not", "cant", "wo n't", "won't", "won ' t"),
        *("ain't", "ai n't", "never", "no", "nor", "neither", "none", "nobody", "nothing"),
        *("hardly", "I'm", "I 'm", "they've", "they 've", "we ' ll", "it ' s", "that’s", "let's"),
        *("he'd", "the", "of", "because", "yourselves", "which", "shan't", "sha n't"),
    ],
)
def test_function_words_and_contractions(text):
    assert free(text, min_length=1) == []


@pytest.mark.fault("E4")
def test_what_only_looks_like_a_contraction():
    assert free("they won , the film ' s plot", min_length=1) == ["won", "film", "plot"]


class TestSetting:
    @pytest.mark.fault("E4")
    def test_a_list_or_a_file_or_a_name(self, tmp_path):
        text = "The film ISN’T dull"
        assert free(text, ["Film", "isn't"]) == ["The", "dull"]
        (tmp_path / "mine.txt").write_text("film\n\n  isn't \n", encoding="utf-8")
        (tmp_path / "mine.json").write_text(json.dumps(["film", "isn't"]), encoding="utf-8")
        kept = Protocol(name="x", stop_words=["Film", "isn’t", "film"])
        for name in ("mine.txt", "mine.json"):
            assert Protocol(name="x", stop_words=str(tmp_path / name)) == kept
            assert Protocol(name="x", stop_words=tmp_path / name).hash() == kept.hash()
        assert free(text, "none") == free(text, []) == ["The", "film", "ISN’T", "dull"]
        assert free("well, it isn't", "scikit-learn") == ["isn't"]

    @pytest.mark.fault("E4")
    def test_it_is_part_of_the_hash(self):
        settings = ["english", "scikit-learn", "none", ["film"], ["film", "movie"]]
        assert len({Protocol(name="x", stop_words=one).hash() for one in settings}) == 5
        assert Protocol(name="x", stop_words=["b", "a"]).hash() == (
            Protocol(name="x", stop_words=["a", "b", "B"]).hash()
        )

    @pytest.mark.fault("E4")
    def test_it_survives_being_written_down(self):
        for setting in ("english", ["film", "movie"]):
            protocol = Protocol(name="x", stop_words=setting)
            again = Protocol(**json.loads(json.dumps(protocol.described())))
            assert again == protocol
            assert again.hash() == protocol.hash()

    def test_as_it_was_written_at_first(self):
        assert Protocol(name="x", stop_words=True).stop_words == "none"
        assert Protocol(name="x", stop_words=False).stop_words == "english"

    @pytest.mark.parametrize("setting", ["englisch", "no/such/file.txt", 3, None, ["a", 3]])
    def test_anything_else_is_refused(self, setting):
        with pytest.raises(UserError, match=r"stop.*english, scikit-learn, none"):
            Protocol(name="x", stop_words=setting)

    def test_a_broken_file_is_refused(self, tmp_path):
        (tmp_path / "mine.json").write_text("[oops", encoding="utf-8")
        with pytest.raises(UserError, match=r"mine\.json"):
            Protocol(name="x", stop_words=str(tmp_path / "mine.json"))

    def test_every_named_protocol_says_which_list_it_has(self):
        for protocol in PROTOCOLS.values():
            assert protocol.stop_words == "english"
            assert protocol.version == 2
        assert "instead of its 266" in PROTOCOLS["textfooler2020"].source


@pytest.mark.fault("E4")
def test_an_evaluation_of_the_first_version_keeps_its_list(tmp_path):
    """Its header says false where the one list of then was meant."""
    evaluation = Evaluation(
        protocol=Protocol(name="x"), hashes={}, model="0a", data="1b", description="", seed=0
    )
    save(tmp_path, evaluation)
    (tmp_path / "records.jsonl").touch()
    assert load(tmp_path).protocol == evaluation.protocol
    header = json.loads((tmp_path / "evaluation.json").read_text())
    header["protocol"]["stop_words"] = False
    (tmp_path / "evaluation.json").write_text(json.dumps(header))
    assert load(tmp_path).protocol.stop_words == "scikit-learn"


def test_the_list_is_closed():
    """A word more or less changes every number: it is a new version of the protocols and RULES."""
    assert len(ENGLISH_STOP_WORDS) == 323
