"""From words to the token ids that a model reads, one look-up a word.

A changed text differs from its original in a few words, so its ids are spliced from those of its
words, each tokenized once. That is right where a tokenizer cuts at words; it is checked on every
original and on every text that an attack ends with, and texts for which it is wrong are tokenized
whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from nlp_adv.robustness.protocols import Part
from nlp_adv.robustness.substitution.words import Words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pair = tuple[str, str | None]  # the attacked text and the other one, in the order of the attack


class Row(NamedTuple):
    """One text as the model reads it, not padded.

    Args:
        ids: token ids, special ones included.
        types: segment numbers, () for models that have none.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...]


class Splicer:
    """The tokenizer, and what it made of every piece of text so far.

    Args:
        tokenizer: of the attacked model.
        max_length: tokens after which a text is cut, special ones included.
        part: the attacked text of a pair.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, part: Part = "second"
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._attacked_first = part == "first"
        self._known: dict[str, tuple[int, ...]] = {}

    def templates(self, texts: Sequence[tuple[Words, str | None]]) -> list[Template]:
        """What stays the same in all variants of each text, from one call of the tokenizer."""
        encoded = self._encoded([(words.text, context) for words, context in texts])
        self.learn(chunk for words, _ in texts for chunk in _chunks(words))
        return [self._template(encoded, index, *text) for index, text in enumerate(texts)]

    def whole(self, texts: Sequence[Pair]) -> list[Row]:
        """Texts as the tokenizer itself encodes them."""
        encoded = self._encoded(texts)
        return [_row(encoded, index) for index in range(len(texts))]

    def offsets(self, text: Pair) -> list[tuple[int, int] | None]:
        """For each token, its characters in the attacked text; None for all other tokens."""
        encoded = self._encoded([text], return_offsets_mapping=True)
        mine = self._sequence(text[1])
        spans = zip(encoded["offset_mapping"][0], encoded.sequence_ids(0), strict=True)
        return [tuple(span) if sequence == mine else None for span, sequence in spans]

    def ids(self, chunk: str) -> tuple[int, ...]:
        """A piece of text on its own, without special tokens."""
        if chunk not in self._known:
            self.learn([chunk])
        return self._known[chunk]

    def learn(self, chunks: Iterable[str]) -> None:
        """Tokenize what is not known yet, in one call."""
        new = [chunk for chunk in dict.fromkeys(chunks) if chunk not in self._known]
        if new:
            # Pieces are cut at max_length only as part of their text.
            encoded = self.tokenizer(new, add_special_tokens=False, verbose=False)
            self._known |= zip(new, map(tuple, encoded["input_ids"]), strict=True)

    def _encoded(self, texts: Sequence[Pair], **options: Any) -> Any:
        options |= {"truncation": True, "max_length": self.max_length}
        if texts[0][1] is None:
            return self.tokenizer([text for text, _ in texts], **options)
        first, second = zip(*texts, strict=True)
        if not self._attacked_first:
            first, second = second, first
        return self.tokenizer(list(first), list(second), **options)

    def _sequence(self, context: str | None) -> int:
        return 0 if context is None or self._attacked_first else 1

    def _template(self, encoded: Any, index: int, words: Words, context: str | None) -> Template:
        row = _row(encoded, index)
        inside: list[int] = []
        if getattr(self.tokenizer, "is_fast", False):
            mine = self._sequence(context)
            sequences = encoded.sequence_ids(index)
            inside = [place for place, sequence in enumerate(sequences) if sequence == mine]
        body = tuple(token for chunk in _chunks(words) for token in self._known[chunk])
        start, end = (inside[0], inside[-1] + 1) if inside else (0, 0)
        return Template(
            self,
            words,
            context,
            row,
            start,
            end,
            # A context that was cut would be cut elsewhere beside a shorter variant.
            splices=bool(inside)
            and row.ids[start:end] == body
            and (context is None or len(row.ids) < self.max_length),
        )


@dataclass
class Template:
    """One example's text: the ids around the attacked part, which all its variants share.

    Args:
        splices: whether the ids of its words, put together, are the tokenizer's; set to False
            to have every variant tokenized whole.
    """

    splicer: Splicer
    words: Words
    context: str | None
    original: Row
    start: int
    end: int
    splices: bool

    def rows(self, variants: Sequence[Words]) -> list[Row]:
        """The variants as the model reads them."""
        if not variants:
            return []
        if not self.splices:
            return self.splicer.whole([(words.text, self.context) for words in variants])
        self.splicer.learn(chunk for words in variants for chunk in _chunks(words))
        rows = [self._spliced(words) for words in variants]
        long = [place for place, row in enumerate(rows) if self._is_cut(row)]
        if long:
            texts = [(variants[place].text, self.context) for place in long]
            for place, row in zip(long, self.splicer.whole(texts), strict=True):
                rows[place] = row
        return rows

    def holds_for(self, words: Words) -> bool:
        """Whether the tokenizer itself makes the same of this variant."""
        row = self.splicer.whole([(words.text, self.context)])[0]
        return not self.splices or row == self.rows([words])[0]

    def spans(self, words: Words) -> list[range]:
        """For each word of a variant the places of its tokens in its row; empty where it is cut."""
        offsets = self.splicer.offsets((words.text, self.context))
        tokens = [(place, *span) for place, span in enumerate(offsets) if span is not None]
        spans, first, end = [], 0, 0
        for gap, word in zip(words.gaps, words.words, strict=False):
            begin = end + len(gap)
            end = begin + len(word)
            # A token may begin with the space before its word; one of spaces alone is no part.
            while first < len(tokens) and tokens[first][2] <= begin:
                first += 1
            last = first
            while last < len(tokens) and tokens[last][1] < end:
                last += 1
            spans.append(
                range(tokens[first][0], tokens[last - 1][0] + 1) if last > first else range(0)
            )
        return spans

    def _spliced(self, words: Words) -> Row:
        body = [token for chunk in _chunks(words) for token in self.splicer.ids(chunk)]
        ids, types = self.original
        if types:
            types = (
                *types[: self.start],
                *types[self.start : self.start + 1] * len(body),
                *types[self.end :],
            )
        return Row((*ids[: self.start], *body, *ids[self.end :]), types)

    def _is_cut(self, row: Row) -> bool:
        return len(row.ids) > self.splicer.max_length


def _chunks(words: Words) -> list[str]:
    """Each word with the gap before it, and the last gap: byte-level tokens begin with a space.

    Where a word was taken out, the gaps on its two sides are one.
    """
    chunks, gap = [], ""
    for before, word in zip(words.gaps, words.words, strict=False):
        gap += before
        if word:
            chunks.append(gap + word)
            gap = ""
    last = gap + words.gaps[-1]
    return [*chunks, last] if last else chunks


def _row(encoded: Any, index: int) -> Row:
    types = encoded["token_type_ids"][index] if "token_type_ids" in encoded else ()
    return Row(tuple(encoded["input_ids"][index]), tuple(types))
