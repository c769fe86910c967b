"""Ids put together from words are the tokenizer's; where they are not, that is noticed."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from toy_victims import KINDS, SENTENCES, WORDS, tokenizer_of

from nlp_adv.robustness.substitution.encoding import Row, Splicer
from nlp_adv.robustness.substitution.words import Words

CONTEXT = "who would call such a thing boring?"
UNKNOWN = {"wordpiece": "[UNK]", "roberta": "<mask>", "gpt2": "", "unigram": "<unk>"}
GAPS = [" ", "  ", ", ", ". ", "...", " - ", " (", ") ", "\n", "\t", " \n ", "!", "'", " '"]
# Words and things that attacks put in their place.
ANY_WORD = st.sampled_from([*WORDS, "", "xqz", "a b", "ch arming", "naïve", "[UNK]", "<unk>"])


def reference(kind: str, text: str, context: str | None, part: str, max_length: int) -> Row:
    """The tokenizer on the whole text."""
    texts = [text] if context is None else [text, context]
    if part == "second":
        texts.reverse()
    encoded = tokenizer_of(kind)(*texts, truncation=True, max_length=max_length)
    return Row(tuple(encoded["input_ids"]), tuple(encoded.get("token_type_ids", ())))


@st.composite
def variants(draw):
    """A text and three variants of it, in some of which words are missing or unknown."""
    words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6))
    gaps = [draw(st.sampled_from(["", *GAPS]))]
    gaps += [draw(st.sampled_from(GAPS)) for _ in words[1:]]
    text = "".join(gap + word for gap, word in zip(gaps, words, strict=True))
    original = Words.of(text + draw(st.sampled_from(["", ".", " !", "\n"])))
    places = st.integers(0, len(original) - 1)
    changes = st.dictionaries(places, ANY_WORD, max_size=3)
    return original, [original.replaced(draw(changes)) for _ in range(3)]


@pytest.mark.parametrize("kind", ["wordpiece", "roberta", "gpt2"])
@pytest.mark.parametrize("part", ["alone", "first", "second"])
class TestVariants:
    @given(drawn=variants(), max_length=st.sampled_from([8, 14, 60]))
    def test_rows_are_the_tokenizers(self, kind, part, drawn, max_length):
        original, changed = drawn
        context = None if part == "alone" else CONTEXT
        splicer = Splicer(tokenizer_of(kind), max_length, "first" if part == "first" else "second")
        (template,) = splicer.templates([(original, context)])
        side = "second" if part == "second" else "first"
        assert template.original == reference(kind, original.text, context, side, max_length)
        assert template.rows([original]) == [template.original]
        for words, row in zip(changed, template.rows(changed), strict=True):
            assert row == reference(kind, words.text, context, side, max_length), words.text
            assert template.holds_for(words)
