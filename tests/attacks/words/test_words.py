"""Words: a text taken apart and put together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlp_adv.attacks.words.words import Words, characters, in_the_case_of, runs_on
from nlp_adv.errors import UserError

# Letters, marks that join words, marks that part them, spaces, other scripts, a combining accent.
TEXTS = st.one_of(st.text(), st.text(alphabet="aB1é日'’-_.,! \t\n\u00a0\u0301😀"))


@given(TEXTS)
def test_a_text_is_its_gaps_and_words(text):
    words = Words.of(text)
    assert words.text == text
    assert len(words.gaps) == len(words) + 1
    assert all(gap for gap in words.gaps[1:-1])
    assert all(words.words)
    # A gap holds no letter and no digit, a word no space.
    assert not any(c.isalnum() for gap in words.gaps for c in gap)
    assert not any(c.isspace() for word in words.words for c in word)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("...!?", []),
        ("one", ["one"]),
        ("I don't, you don’t.", ["I", "don't", "you", "don’t"]),
        ("well-made 1990s 'quoted' words-", ["well-made", "1990s", "quoted", "words"]),
        ("a -- b", ["a", "b"]),
        ("naïve Straße", ["naïve", "Straße"]),
    ],
)
def test_what_a_word_is(text, words):
    assert list(Words.of(text).words) == words


@given(st.data())
def test_replaced_and_changed(data):
    words = Words.of(data.draw(TEXTS))
    places = st.integers(0, max(0, len(words) - 1))
    changes = data.draw(st.dictionaries(places, st.sampled_from(["", "x", "two words", "a"])))
    changes = {place: word for place, word in changes.items() if place < len(words)}
    other = words.replaced(changes)
    assert other.gaps == words.gaps
    expected = list(words.words)
    for place, word in changes.items():
        expected[place] = word
    assert list(other.words) == expected
    pieces = [piece for pair in zip(words.gaps, [*expected, ""], strict=True) for piece in pair]
    assert other.text == "".join(pieces)
    really = [place for place in sorted(changes) if changes[place] != words.words[place]]
    assert list(words.changed(other)) == list(other.changed(words)) == really


@pytest.mark.parametrize(
    ("text", "gone", "left"),
    [
        ("a b c.", [1], "a c."),
        ("a b c.", [2], "a b."),
        ("a b c.", [0], "b c."),
        ("a b c.", [0, 1], "c."),
        ("a, b c", [1], "a, c"),
        ("(a) b", [1], "(a)"),
        ("a b c", [0, 1, 2], ""),
    ],
)
def test_closed(text, gone, left):
    words = Words.of(text).replaced(dict.fromkeys(gone, ""))
    assert words.closed().text == left
    assert words.closed().closed() == words.closed()
    assert words.closed().words == words.words


@given(TEXTS)
def test_nothing_to_close(text):
    assert Words.of(text).closed() == Words.of(text)


def test_texts_of_other_lengths_cannot_be_compared():
    with pytest.raises(ValueError, match="zip"):
        Words.of("a b").changed(Words.of("a b c"))


@pytest.mark.parametrize(
    ("word", "candidate", "written"),
    [
        ("film", "movie", "movie"),
        ("Film", "movie", "Movie"),
        ("FILM", "movie", "MOVIE"),
        ("A", "one", "One"),  # a single capital is a title, not a shout
        ("film", "Paris", "Paris"),
        ("iPhone", "phone", "phone"),
        ("Film", "", ""),
        ("", "movie", "movie"),
        ("1990S", "eighties", "EIGHTIES"),
    ],
)
def test_case(word, candidate, written):
    assert in_the_case_of(word, candidate) == written


# Vowel signs, vowel points and accents are code points of their own, and no letters to Python.
MARKED = [
    ("यह फिल्म बहुत अच्छी है", 5),
    ("यह फ़िल्म, बहुत अच्छी है।", 5),
    ("هٰذَا الفِيلْمُ جَيِّدٌ جِدًّا", 4),
    ("இந்தப் படம் மிகவும் நன்றாக இருக்கிறது", 5),
    ("এই ছবিটি খুব ভালো", 4),
    ("శుభ సాయంత్రం", 2),
    ("סֶרֶט טוֹב מְאֹד", 3),
    ("cafe\u0301 de\u0301ja\u0300 vu", 3),
    ("phim này râ\u0301t hay", 4),
    ("می\u200cخواهم فیلم را ببینم", 4),  # a zero-width non-joiner inside a word
    ("ශ්\u200dරී ලංකා", 2),  # a zero-width joiner
    ("صه\u200cیون", 1),
    ("צה״ל ג׳ירפה", 2),
    ("col·lecció don\u2019t rock\u2010solid", 3),
    ("ภาพยนตร์ เรื่องนี้ ดีมาก", 3),
    ("이 영화는 정말 좋다", 4),
]


@pytest.mark.fault("E2")
@pytest.mark.parametrize(("text", "count"), MARKED)
def test_a_mark_belongs_to_its_word(text, count):
    words = Words.of(text)
    assert len(words) == count
    assert words.text == text
    if not any(c in text for c in ",।"):  # nothing but spaces between them
        assert list(words.words) == text.split()


@pytest.mark.fault("E2")
def test_emoji_are_no_words():
    """Nor are their joiners and variation selectors, wherever they stand."""
    words = Words.of("I ❤️ it 👨‍👩‍👧 so 👍🏽 much☀️")
    assert words.words == ("I", "it", "so", "much")


@pytest.mark.fault("E2")
@given(TEXTS, st.sampled_from(["\u0301", "\u093f", "\u05b0", "\u0e31", "\u200d"]))
def test_a_mark_inside_a_word_parts_nothing(text, mark):
    marked = [word[0] + mark + word[1:] for word in Words.of(text).words if word[1:].isalnum()]
    assert Words.of(" ".join(marked)).words == tuple(marked)


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("这部电影很好看。", True),
        ("この映画はとてもいいです", True),
        ("ภาพยนตร์เรื่องนี้ดีมาก", True),
        ("ရုပ်ရှင်က ကောင်းတယ်", True),
        ("ខ្សែភាពយន្តនេះល្អ", True),
        ("iPhone 手机真的很好用", True),
        ("이 영화는 정말 좋다", False),
        ("यह फिल्म बहुत अच्छी है", False),
        ("the film 東京 is good", False),
        ("123 !?", False),
        ("", False),
    ],
)
@pytest.mark.fault("E2")
def test_scripts_without_spaces(text, runs):
    assert runs_on(text) == runs


class TestSegmenter:
    @pytest.mark.fault("E2")
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("这部电影,很好!", "这 部 电 影 很 好"),
            ("iPhone手机2024年", "iPhone 手 机 2024 年"),
            ("ดีมาก", "ดี ม า ก"),
            ("the film, don't", "the film don't"),
        ],
    )
    def test_characters(self, text, words):
        found = Words.of(text, characters)
        assert list(found.words) == words.split()
        assert found.text == text

    @given(TEXTS)
    def test_characters_leave_other_texts_alone(self, text):
        if "_" not in text and not any(map(runs_on, text)):
            assert Words.of(text, characters) == Words.of(text)

    @pytest.mark.fault("E2")
    def test_any_callable(self):
        """Spaces and punctuation that it returns are no words."""
        found = Words.of(
            "「这部 电影」,很好!", lambda text: ["「", "这部", " ", "电影", "」,", "很好", "!"]
        )
        assert found.words == ("这部", "电影", "很好")
        assert found.gaps == ("「", " ", "」,", "!")

    @pytest.mark.fault("E2")
    @pytest.mark.parametrize("returned", [["电影", "这部"], ["movie"], ["这部", "这部"], [3]])
    def test_what_is_no_part_of_the_text(self, returned):
        with pytest.raises(UserError, match="segmenter"):
            Words.of("这部电影", lambda text: returned)


@given(TEXTS, st.data())
def test_a_stretch_of_words(text, data):
    words = Words.of(text)
    ends = st.integers(0, len(words))
    first, last = sorted((data.draw(ends), data.draw(ends)))
    some = words.only(range(first, last))
    assert some.words == words.words[first:last]
    assert some.text == text
