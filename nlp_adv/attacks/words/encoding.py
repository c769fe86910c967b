"""From words to the token ids that a model reads, one look-up a word.

A changed text differs from its original in a few words, so its ids are spliced from those of its
words, each tokenized once. That is right where a tokenizer cuts at words; it is checked on every
original and on every text that an attack ends with, and texts for which it is wrong are tokenized
whole.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nlp_adv.attacks.words.pieces import chunks_of, spans_of
from nlp_adv.attacks.words.protocols import Part
from nlp_adv.attacks.words.words import Words
from nlp_adv.data.blank import is_blank
from nlp_adv.errors import UserError

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
        tokenizer: of the attacked model, one of transformers or `Characters`.
        max_length: tokens after which a text is cut, special ones included.
        part: the attacked text of a pair.
    """

    def __init__(self, tokenizer: Any, max_length: int, part: Part = "second") -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._attacked_first = part == "first"
        self._known: dict[str, tuple[int, ...]] = {}

    def templates(self, texts: Sequence[tuple[Words, str | None]]) -> list[Template]:
        """What stays the same in all variants of each text, from one call of the tokenizer."""
        pairs = [(words.text, context) for words, context in texts]
        encoded = self._encoded(pairs)
        cut = self._cut(pairs, [_row(encoded, index) for index in range(len(pairs))])
        whole = zip(texts, cut, strict=True)
        self.learn(
            chunk for (words, _), is_cut in whole if not is_cut for chunk in chunks_of(words)
        )
        return [
            self._template(encoded, index, *text, cut[index]) for index, text in enumerate(texts)
        ]

    def whole(self, texts: Sequence[Pair]) -> list[Row]:
        """Texts as the tokenizer itself encodes them."""
        encoded = self._encoded(texts)
        return [_row(encoded, index) for index in range(len(texts))]

    def cut(self, texts: Sequence[Pair]) -> list[bool]:
        """Which texts are longer than the model's input, so that it does not read them whole."""
        return self._cut(texts, self.whole(texts))

    def _cut(self, texts: Sequence[Pair], rows: Sequence[Row]) -> list[bool]:
        # A row that has room left was not cut; of the others the whole length is looked at.
        full = [len(row.ids) >= self.max_length for row in rows]
        long = [text for text, is_full in zip(texts, full, strict=True) if is_full]
        lengths = iter(self._encoded(long, truncation=False)["input_ids"] if long else [])
        return [is_full and len(next(lengths)) > self.max_length for is_full in full]

    def blank(self, texts: Sequence[str]) -> list[bool]:
        """Which texts hold nothing that the model could read: no visible character, or no token."""
        ids = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [is_blank(text) or not tokens for text, tokens in zip(texts, ids, strict=True)]

    def read(self, words: Words, context: str | None) -> range:
        """The places whose words the model reads, a part of them at least."""
        places = range(len(words))
        if self.is_fast:
            spans = spans_of(words, self.offsets((words.text, context)))
            read = [place for place in places if spans[place]]
            return range(read[0], read[-1] + 1) if read else range(0)
        (row,) = self.whole([(words.text, context)])
        from_the_left = self.tokenizer.truncation_side != "left"

        def is_enough(count: int) -> bool:
            """Whether so many words make the same ids as all of them."""
            kept = places[:count] if from_the_left else places[len(words) - count :]
            gaps = words.gaps[kept.start : kept.stop + 1]
            text = Words(words.words[kept.start : kept.stop], gaps).text
            return self.whole([(text, context)]) == [row]

        count = bisect_left(range(len(words)), True, key=is_enough)
        return places[:count] if from_the_left else places[len(words) - count :]

    @property
    def is_fast(self) -> bool:
        """Whether the tokenizer knows which characters a token came from."""
        return bool(getattr(self.tokenizer, "is_fast", False))

    def offsets(self, text: Pair) -> list[tuple[int, int] | None]:
        """For each token, its characters in the attacked text; None for all other tokens.

        Raises:
            UserError: the tokenizer does not say.
        """
        if not self.is_fast:
            raise UserError(
                f"{type(self.tokenizer).__name__} does not say which token came from which word, "
                f"and a2t, hotflip, bae, bert-attack and clare need to know it; load a fast "
                f"tokenizer (use_fast=True), or choose another attack."
            )
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

    def _encoded(self, texts: Sequence[Pair], *, truncation: bool = True, **options: Any) -> Any:
        options |= {"truncation": truncation, "verbose": False}
        if truncation:
            options["max_length"] = self.max_length
        if texts[0][1] is None:
            return self.tokenizer([text for text, _ in texts], **options)
        first, second = zip(*texts, strict=True)
        if not self._attacked_first:
            first, second = second, first
        return self.tokenizer(list(first), list(second), **options)

    def _sequence(self, context: str | None) -> int:
        return 0 if context is None or self._attacked_first else 1

    def _template(
        self, encoded: Any, index: int, words: Words, context: str | None, cut: bool
    ) -> Template:
        row = _row(encoded, index)
        if cut:
            # Its ids would be cut elsewhere beside another word, so it is tokenized whole.
            words = words.only(self.read(words, context))
            return Template(self, words, context, row, 0, 0, splices=False)
        inside: list[int] = []
        if self.is_fast:
            mine = self._sequence(context)
            sequences = encoded.sequence_ids(index)
            inside = [place for place, sequence in enumerate(sequences) if sequence == mine]
        body = tuple(token for chunk in chunks_of(words) for token in self._known[chunk])
        start, end = (inside[0], inside[-1] + 1) if inside else (0, 0)
        return Template(
            self,
            words,
            context,
            row,
            start,
            end,
            splices=bool(inside) and row.ids[start:end] == body,
        )


@dataclass
class Template:
    """One example's text: the ids around the attacked part, which all its variants share.

    Args:
        words: the attacked text; what the model does not read of it is part of the outer gaps.
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
        self.splicer.learn(chunk for words in variants for chunk in chunks_of(words))
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
        return spans_of(words, self.splicer.offsets((words.text, self.context)))

    def reads(self, words: Words, place: int) -> bool:
        """Whether the model reads that word of a variant: longer words push others out."""
        (row,) = self.rows([words])
        return not self.fills(row) or place in self.splicer.read(words, self.context)

    def fills(self, row: Row) -> bool:
        """Whether there is no room for more: what comes behind, if anything, is not read."""
        return len(row.ids) >= self.splicer.max_length

    def _spliced(self, words: Words) -> Row:
        body = [token for chunk in chunks_of(words) for token in self.splicer.ids(chunk)]
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


def _row(encoded: Any, index: int) -> Row:
    types = encoded["token_type_ids"][index] if "token_type_ids" in encoded else ()
    return Row(tuple(encoded["input_ids"][index]), tuple(types))
