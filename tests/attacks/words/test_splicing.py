"""Ids put together from words are the tokenizer's; where they are not, that is noticed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_victims import KINDS, SENTENCES, WORDS, tokenizer_of

from nlp_adv.attacks.words.encoding import Row, Splicer, Template
from nlp_adv.attacks.words.words import Words

CONTEXT = "who would call such a thing boring?"
PARTS = ("alone", "first", "second")
# Kinds whose tokenizers cut at words, so that texts are put together from words.
SPLICED = ("wordpiece", "roberta", "gpt2")
SPECIAL = {"wordpiece": "[UNK]", "roberta": "<mask>", "gpt2": "<|end|>", "unigram": "<unk>"}
GAPS = [" ", "  ", ", ", ". ", "...", " - ", " (", ") ", "\n", "\t", " \n ", "!", " '", " , "]
# Words, and what attacks put in their place.
CHANGES = [*WORDS[::9], "", "", "xqz", "a b", "ch arming", "naïve", *SPECIAL.values()]


def reference(kind: str, text: str, part: str, max_length: int) -> Row:
    """The tokenizer on the whole text."""
    texts = {"alone": [text], "first": [text, CONTEXT], "second": [CONTEXT, text]}[part]
    columns = [[one] for one in texts]  # alone, "" is taken for no second text
    encoded = tokenizer_of(kind)(*columns, truncation=True, max_length=max_length)
    types = encoded["token_type_ids"][0] if "token_type_ids" in encoded else ()
    return Row(tuple(encoded["input_ids"][0]), tuple(types))


def template_of(kind: str, text: str | Words, part: str = "alone", max_length: int = 60):
    splicer = Splicer(tokenizer_of(kind), max_length, "first" if part == "first" else "second")
    words = Words.of(text) if isinstance(text, str) else text
    (template,) = splicer.templates([(words, None if part == "alone" else CONTEXT)])
    return template


def assert_like_the_tokenizer(template: Template, kind: str, part: str, variants) -> None:
    limit = template.splicer.max_length
    for words, row in zip(variants, template.rows(variants), strict=True):
        assert row == reference(kind, words.text, part, limit), repr(words.text)


@st.composite
def texts(draw):
    """A text, and variants of it in which words are others, missing or special."""
    words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6))
    gaps = draw(st.lists(st.sampled_from(GAPS), min_size=8, max_size=8))
    first, last = draw(st.sampled_from(["", " ", "("])), draw(st.sampled_from(["", ".", " !"]))
    text = first + "".join(word + gap for word, gap in zip(words, gaps, strict=False)) + last
    original = Words.of(text)
    places = st.integers(0, len(original) - 1)
    changes = st.dictionaries(places, st.sampled_from(CHANGES), min_size=1, max_size=3)
    return original, [original.replaced(draw(changes)) for _ in range(2)]


class TestRows:
    @given(
        texts(),
        st.sampled_from(SPLICED),
        st.sampled_from(PARTS),
        st.sampled_from([9, 14, 18, 60]),
    )
    @settings(max_examples=150)
    def test_variants(self, drawn, kind, part, max_length):
        original, variants = drawn
        template = template_of(kind, original, part, max_length)
        assert template.original == reference(kind, original.text, part, max_length)
        assert template.rows([original]) == [template.original]
        assert_like_the_tokenizer(template, kind, part, variants)
        assert all(template.holds_for(words) for words in variants)

    @given(texts(), st.sampled_from(PARTS), st.sampled_from([14, 60]))
    @settings(max_examples=40)
    def test_a_tokenizer_that_does_not_cut_at_words(self, drawn, part, max_length):
        """Unigram begins every piece on its own with "▁": right, or noticed on one of two texts."""
        original, variants = drawn
        template = template_of("unigram", original, part, max_length)
        assert template.rows([original]) == [template.original]
        rows = template.rows(variants)
        for words, row in zip(variants, rows, strict=True):
            right = row == reference("unigram", words.text, part, max_length)
            assert right == template.holds_for(words)
            assert right or template.splices
        template.splices = False
        assert_like_the_tokenizer(template, "unigram", part, variants)

    @pytest.mark.parametrize("kind", SPLICED)
    @pytest.mark.parametrize("part", PARTS)
    def test_ordinary_sentences_are_spliced(self, kind, part):
        """Otherwise all of the above would hold for a splicer that never splices."""
        for sentence in SENTENCES[2:5]:
            template = template_of(kind, sentence, part)
            assert template.splices
            for place in range(len(template.words)):
                variants = [template.words.replaced({place: word}) for word in CHANGES[::2]]
                assert_like_the_tokenizer(template, kind, part, variants)

    @pytest.mark.parametrize("kind", ["roberta", "gpt2"])
    @pytest.mark.parametrize("text", ["the plot is dull.", "the plot, it is", "it, (the plot)"])
    def test_gaps_around_a_missing_word_are_one_piece_of_text(self, kind, text):
        """ " " and "." are other tokens than " ."."""
        template = template_of(kind, text)
        assert template.splices
        for place in range(len(template.words)):
            variant = template.words.replaced({place: ""})
            assert_like_the_tokenizer(template, kind, "alone", [variant])

    @pytest.mark.parametrize("kind", SPLICED)
    @pytest.mark.parametrize("part", PARTS)
    def test_without_words(self, kind, part):
        for text in ("", "?!...", "  ", SPECIAL[kind], f"({SPECIAL[kind]})"):
            template = template_of(kind, text, part)
            assert template.original == reference(kind, text, part, 60)
            assert_like_the_tokenizer(template, kind, part, [template.words])
            assert len(template.spans(template.words)) == len(template.words)

    def test_segment_numbers(self):
        template = template_of("wordpiece", "it is dull", "second")
        longer = template.words.replaced({2: "camerawork sluggish"})
        (row,) = template.rows([longer])
        ids, sep = list(row.ids), tokenizer_of("wordpiece").sep_token_id
        border = ids.index(sep) + 1
        assert list(row.types) == [0] * border + [1] * (len(ids) - border)
        assert template.splices

    def test_no_variants_no_rows(self):
        assert template_of("wordpiece", "it is dull").rows([]) == []


class TestCutTexts:
    TEXT = " ".join(SENTENCES[:2])

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("part", PARTS)
    def test_what_is_too_long_is_not_spliced(self, kind, part):
        template = template_of(kind, self.TEXT, part, max_length=16)
        assert not template.splices
        assert len(template.original.ids) == 16
        variants = [template.words.replaced({place: word}) for place in (0, 9) for word in CHANGES]
        assert_like_the_tokenizer(template, kind, part, variants)

    @pytest.mark.parametrize("kind", SPLICED)
    def test_a_variant_that_becomes_too_long_is_cut(self, kind):
        text = "it sluggishness dull"
        length = len(template_of(kind, text).original.ids)
        template = template_of(kind, text, max_length=length)
        assert template.splices
        changes = ("", "sluggishness", "sluggishness camerawork")
        variants = [template.words.replaced({1: word}) for word in changes]
        assert_like_the_tokenizer(template, kind, "alone", variants)
        assert [len(row.ids) < length for row in template.rows(variants)] == [True, False, False]

    @pytest.mark.parametrize("kind", SPLICED)
    @pytest.mark.parametrize("part", ["first", "second"])
    def test_the_other_text_is_cut_less_beside_a_shorter_variant(self, kind, part):
        template = template_of(kind, "sluggish and dull it is", part, max_length=14)
        variants = [template.words.replaced({0: ""}), template.words.replaced({0: "", 3: ""})]
        assert_like_the_tokenizer(template, kind, part, variants)
        kept = [
            sum(token in row.ids for token in template.splicer.ids(CONTEXT))
            for row in template.rows([template.words, *variants])
        ]
        assert kept[0] < kept[1] <= kept[2]


class TestSpans:
    @given(texts(), st.sampled_from(KINDS), st.sampled_from(PARTS), st.sampled_from([11, 60]))
    @settings(max_examples=60)
    def test_a_words_tokens_are_those_that_hold_its_characters(self, drawn, kind, part, limit):
        original, variants = drawn
        template = template_of(kind, original, part, limit)
        attacked = int(part == "second")
        for words in variants:
            pair = {"alone": [words.text], "first": [words.text, CONTEXT]}
            encoded = tokenizer_of(kind)(
                *pair.get(part, [CONTEXT, words.text]),
                truncation=True,
                max_length=limit,
                return_offsets_mapping=True,
            )
            holders: dict[int, list[int]] = {}  # character → tokens
            sequences = encoded.sequence_ids(0)
            for token, (start, end) in enumerate(encoded["offset_mapping"]):
                for character in range(start, end) if sequences[token] == attacked else ():
                    holders.setdefault(character, []).append(token)
            at = 0
            for gap, word, span in zip(
                words.gaps, words.words, template.spans(words), strict=False
            ):
                at += len(gap)
                expected = {t for c in range(at, at + len(word)) for t in holders.get(c, [])}
                assert set(span) == expected
                at += len(word)

    @pytest.mark.parametrize("kind", SPLICED)
    def test_the_tokens_of_a_span_spell_the_word(self, kind):
        text = "not dull, not boring - (hardly  tasteless): it's\nmasterful!"
        for part in PARTS:
            template = template_of(kind, text, part)
            for word, span in zip(
                template.words.words, template.spans(template.words), strict=True
            ):
                ids = [template.original.ids[place] for place in span]
                assert tokenizer_of(kind).decode(ids).replace(" ", "") == word

    def test_words_behind_the_cut_have_no_tokens(self):
        text = "it is dull and boring"
        template = template_of("wordpiece", text, max_length=4)
        assert [len(span) for span in template.spans(Words.of(text))] == [1, 1, 0, 0, 0]
