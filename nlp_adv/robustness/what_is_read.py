"""What a model reads of the texts that are to be attacked, and what has to be said of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nlp_adv.attacks.words.encoding import Splicer
from nlp_adv.attacks.words.engine import Engine, Text
from nlp_adv.attacks.words.words import runs_on


def readable(splicer: Splicer, texts: Sequence[Text]) -> list[Text]:
    """Those whose attacked text has something to read.

    In the others an attack has nothing to do: they would count as right answers that no attack can
    turn.
    """
    blank = splicer.blank([text.text for text in texts]) if texts else []
    return [text for text, is_blank in zip(texts, blank, strict=True) if not is_blank]


def notes_on(engine: Engine, drawn: Sequence[Text], attacked: Sequence[Text]) -> list[str]:
    """What a reader must know of the texts, a sentence or two each.

    Args:
        engine: that attacked them.
        drawn: all of them, those without anything to read too.
        attacked: the others.
    """
    return [*_left_out(drawn, attacked), *_cut(engine.splicer, attacked), *_words(engine, attacked)]


def _left_out(drawn: Sequence[Text], attacked: Sequence[Text]) -> Iterator[str]:
    kept = {text.id for text in attacked}
    rows = [str(text.id + 1) for text in drawn if text.id not in kept]
    if rows:
        shown = ", ".join(rows[:5]) + (", …" if len(rows) > 5 else "")
        yield (
            f"{len(rows)} of {len(drawn)} texts hold nothing to read (row {shown}) and were left "
            f"out of all numbers: they count neither as right or wrong nor as robust."
        )


def _cut(splicer: Splicer, texts: Sequence[Text]) -> Iterator[str]:
    cut = sum(splicer.cut([(text.text, text.context) for text in texts]))
    if cut:
        yield (
            f"{cut} of {len(texts)} texts are longer than the {splicer.max_length} tokens that the "
            f"model reads and were cut: words behind the cut were not attacked, and limits and "
            f"shares are of the words before it."
        )


def _words(engine: Engine, texts: Sequence[Text]) -> Iterator[str]:
    run_on = sum(runs_on(text.text) for text in texts)
    if run_on and engine.segmenter is None:
        yield (
            f"{run_on} of {len(texts)} texts are in a script that does not part words by spaces, "
            f"so that a clause counts as one word: the share of changed words and limits by words "
            f"mean nothing for them. Give a segmenter (--segmenter, or Resources(segmenter=…))."
        )
    if engine.unspliced:
        yield (
            f"{engine.unspliced} texts were tokenized whole for every variant: their words do not "
            f"splice with this tokenizer, or they are longer than the longest input."
        )
