"""Other scripts than Latin: words, misspellings of their own letters, marks, whole sentences."""

import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlp_adv.attacks.words.candidates import DeepWordBugEdits, TextBuggerEdits
from nlp_adv.attacks.words.candidates.characters import insertions, random_letters
from nlp_adv.attacks.words.candidates.scripts import letters_for, script_of, units_of
from nlp_adv.attacks.words.words import Words, characters
from nlp_adv.errors import UserError
from nlp_adv.robustness import Predictor, Resources, evaluate_robustness

# Language: a sentence, its words, its script.
SENTENCES = {
    "Russian": ("Этот фильм — просто чудо, и актёры великолепны!", 7, "CYRILLIC"),
    "Ukrainian": ("Цей фільм м'який і дуже гарний 👍🏽.", 6, "CYRILLIC"),
    "Greek": ("Η ταινία ήταν υπέροχη, όμως πολύ μεγάλη.", 7, "GREEK"),
    "Arabic": ("الفيلم رائعٌ جدًّا، والممثلون ممتازون!", 5, "ARABIC"),
    "Hebrew": ("הסרט הזה מצוין, והשחקנים נהדרים.", 5, "HEBREW"),
    "Hindi": ("यह फ़िल्म बहुत अच्छी है, और संगीत भी।", 8, "DEVANAGARI"),
    "Bengali": ("ছবিটি খুব ভালো, কিন্তু বড়।", 5, "BENGALI"),
    "Tamil": ("இந்தப் படம் மிகவும் நன்றாக இருக்கிறது.", 5, "TAMIL"),
    "Korean": ("이 영화는 정말 재미있고 감동적이다.", 5, "HANGUL"),
    "Armenian": ("Այս ֆիլմը շատ գեղեցիկ է։", 5, "ARMENIAN"),
    "Georgian": ("ეს ფილმი ძალიან კარგია.", 4, "GEORGIAN"),
}
RUN_ON = {
    "Chinese": ("这部电影非常好看,演员很棒!", ("这部", "电影", "非常", "好看", "演员", "很", "棒")),
    "Japanese": ("この映画はとても面白い。", ("この", "映画", "は", "とても", "面白い")),
    "Thai": ("ภาพยนตร์เรื่องนี้ดีมาก", ("ภาพยนตร์", "เรื่อง", "นี้", "ดี", "มาก")),
}  # fmt: skip
ALL = 10**6  # draws of each kind: more than there are


def is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def misspelt(word: str, source=None) -> list[str]:
    return (source or DeepWordBugEdits(per_kind=ALL)).candidates(word, random.Random(0))


@pytest.mark.parametrize("language", SENTENCES)
class TestSentences:
    def test_words(self, language):
        text, count, script = SENTENCES[language]
        words = Words.of(text)
        assert words.text == text
        assert len(words) == count
        assert {script_of(word[0]) for word in words.words} == {script}

    def test_misspellings_are_of_the_script_and_well_formed(self, language):
        text, _, script = SENTENCES[language]
        for word in Words.of(text).words:
            found = misspelt(word)
            assert bool(found) == (len(units_of(word)) > 1)
            for one in found:
                assert one != word
                assert {script_of(c) for c in one if c.isalpha()} == {script}
                assert not is_mark(one[0])
                # No mark changed its letter: what is there is a letter of the word with its marks,
                # or one letter that is new.
                old = [word[start:end] for start, end in units_of(word)]
                fresh = [one[start:end] for start, end in units_of(one)]
                for unit in fresh:
                    if unit not in old:
                        assert unit[1:] in ("", *(other[1:] for other in old))

    def test_case(self, language):
        text, _, _ = SENTENCES[language]
        for word in Words.of(text).words:
            upper = word.upper()
            if upper != word.lower() and word.isalpha():
                assert all(not c.islower() for one in misspelt(upper) for c in one)
                lower = word.lower()
                assert all(not c.isupper() for one in misspelt(lower) for c in one)

    def test_an_attack_changes_words_and_nothing_else(self, language):
        """On a model that counts: it answers by the sum of the code points."""
        text, count, script = SENTENCES[language]
        model = Predictor(
            lambda texts: [[0.0, (sum(map(ord, one)) % 5) - 2.5] for one in texts], name="sum"
        )
        label = int(sum(map(ord, text)) % 5 > 2)
        rows = [{"text": text, "label": label}]
        found = evaluate_robustness(model, model.tokenizer, rows, "deepwordbug", progress=False)
        (record,) = found.records
        before, after = Words.of(text), Words.of(record.found.adversarial)
        assert record.outcome == "fooled"
        assert after.gaps == before.gaps
        assert len(before.changed(after)) == record.found.words_changed > 0
        assert record.found.words == count
        assert {script_of(c) for c in record.found.adversarial if c.isalpha()} == {script}


class TestLetters:
    def test_latin_is_as_it_was(self):
        """a–z in the case of the letter, for accented letters and signs as well."""
        for letter in "aéß'9":
            assert letters_for(letter, "don't9é") == "abcdefghijklmnopqrstuvwxyz"
        assert letters_for("É", "É") == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

    @pytest.mark.parametrize(
        ("letter", "some", "none"),
        [
            ("ж", "абяй", "aАё"),
            ("Ж", "АБЯ", "а"),
            ("λ", "αβω", "ςΑ"),
            ("ث", "ابي", "\u0640\u064b"),
            ("ह", "कअ", "ि"),
        ],
    )
    def test_scripts(self, letter, some, none):
        found = letters_for(letter)
        assert set(some) <= set(found)
        assert not set(none) & set(found)

    def test_a_sign_takes_the_letters_of_its_word(self):
        assert set(letters_for("'", "м'який")) == set(letters_for("м"))
        assert letters_for("9", "1990") == letters_for("a")

    def test_syllables_differ_in_one_part(self):
        def parts(syllable: str) -> str:
            return unicodedata.normalize("NFD", syllable).ljust(3, "-")

        found = letters_for("한")
        assert len(found) == 19 + 21 + 28 - 2
        for one in found:
            assert sum(a != b for a, b in zip(parts("한"), parts(one), strict=True)) <= 1

    def test_chinese_has_swaps_and_deletions_alone(self):
        assert sorted(misspelt("电影")) == sorted(["影电", "影", "电"])
        assert misspelt("影") == []
        assert letters_for("影") == ""

    @given(st.text(st.characters(categories=("L", "M", "N")), min_size=1, max_size=6))
    def test_units_are_the_word(self, word):
        units = units_of(word)
        assert "".join(word[start:end] for start, end in units) == word
        assert all(start < end for start, end in units)
        assert not any(is_mark(word[start]) for start, _ in units[1:])
        for _, _, letter in (*insertions(word), *random_letters(word)):
            assert len(letter) <= 2  # capitals of some letters are two


class TestMarks:
    def test_a_letter_and_its_marks_are_one(self):
        """क् and षा of क्षा change places as wholes; a vowel sign is never left alone."""
        assert units_of("क्षा") == [(0, 2), (2, 4)]
        assert "षाक्" in misspelt("क्षा")
        assert "cafe\u0301"[:3] in misspelt("cafe\u0301")
        assert "cafe" not in misspelt("cafe\u0301")

    def test_textbugger_leaves_the_first_and_the_last_letter(self):
        for word in ("फ़िल्में", "великолепны", "cafe\u0301s"):
            units = [word[start:end] for start, end in units_of(word)]
            source = TextBuggerEdits(per_kind=ALL, longest_split=20)
            for one in misspelt(word, source):
                if " " not in one and len(units_of(one)) <= len(units) and one.isalpha():
                    assert one.startswith(units[0])
                    assert one.endswith(units[-1])
            for one in misspelt(word, source):
                assert not any(is_mark(part[0]) for part in one.split())


@pytest.mark.parametrize("language", RUN_ON)
class TestSegmenters:
    def test_words_or_spans(self, language):
        text, words = RUN_ON[language]

        def spans(text: str) -> list[tuple[int, int]]:
            found, end = [], 0
            for word in words:
                start = text.index(word, end)
                end = start + len(word)
                found.append((start, end))
            return found

        found = Words.of(text, spans)
        assert found.words == words
        assert found == Words.of(text, lambda text: list(words))
        assert found.text == text

    def test_an_attack(self, language):
        text, words = RUN_ON[language]
        model = Predictor(lambda texts: [[0.0, 2.5 - len(one) % 5] for one in texts], name="length")
        rows = [{"text": text, "label": int(len(text) % 5 < 2.5)}]
        resources = Resources(segmenter=lambda text: list(words), segmenter_name="mine")
        found = evaluate_robustness(
            model, model.tokenizer, rows, "deepwordbug", resources=resources, progress=False
        )
        (record,) = found.records
        assert record.found.words == len(words)
        assert record.found.adversarial != text or record.outcome == "robust"

    def test_characters(self, language):
        text, _ = RUN_ON[language]
        words = Words.of(text, characters)
        assert all(len(units_of(word)) == 1 for word in words.words)
        assert words.text == text


@pytest.mark.parametrize("returned", [[(0, 9)], [(2, 1)], [(1, 3), (2, 4)], [(0, 1, 2)], [(-1, 2)]])
def test_spans_that_are_none(returned):
    with pytest.raises(UserError, match=r"The segmenter .* returned .* a span is"):
        Words.of("这部电影", lambda text: returned)


def test_a_segmenter_that_is_random():
    model = Predictor(lambda texts: [[0.0, 1.0] for _ in texts], name="constant")
    rows = [{"text": "这部电影很好看" * 3, "label": 1}]
    source = random.Random(0)

    def by_chance(text: str) -> list[str]:
        return [c for c in text if source.random() < 0.5]

    with pytest.raises(UserError, match="in two ways"):
        evaluate_robustness(
            model,
            model.tokenizer,
            rows,
            resources=Resources(segmenter=by_chance),
            progress=False,
        )
