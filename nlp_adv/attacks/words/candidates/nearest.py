"""Neighbour lists from word vectors, such as the counter-fitted ones of Mrkšić et al., NAACL 2016.

The neighbours of a word are the words whose vectors make the smallest angle with its own:

    cos(u, v) = ⟨u, v⟩ / (‖u‖·‖v‖)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from tqdm.auto import trange

from nlp_adv.errors import UserError

MOST, LEAST = 50, 0.5  # neighbours of a word, and their least cosine
_ROWS = 512  # words whose cosines with all others are in memory at once
_SHAPE = "a word and its numbers a line, with spaces between them"


def read_vectors(lines: Iterable[str], what: str) -> tuple[list[str], Tensor]:
    """Words and their vectors from the lines of a text file.

    Args:
        lines: a word and its numbers each; a first line of two whole numbers, as word2vec writes
            it, is left out.
        what: the file, for messages.

    Returns:
        The words, each once, and their vectors: (words, numbers), float32.

    Raises:
        UserError: a line has another number of numbers than the first, or what is no number; or
            there are no lines.
    """
    vectors: dict[str, list[float]] = {}
    size = 0
    for number, line in enumerate(lines, start=1):
        word, *rest = line.split() or [""]
        if number == 1 and len(rest) == 1 and word.isdecimal():
            continue
        try:
            found = [float(part) for part in rest]
        except ValueError:
            raise UserError(f"{what}, line {number}: what follows the word is no number.") from None
        size = size or len(found)
        if len(found) != size or size == 0:
            raise UserError(
                f"{what}, line {number}: {len(found)} numbers, where other lines have {size}; the "
                f"file must have {_SHAPE}."
            )
        vectors.setdefault(word, found)
    if not vectors:
        raise UserError(f"{what} is empty; it must have {_SHAPE}.")
    table = torch.tensor(list(vectors.values()), dtype=torch.float32)
    if not torch.isfinite(table).all():
        raise UserError(f"{what} holds numbers that are inf or nan; fetch or write it again.")
    return list(vectors), table


def nearest_words(
    words: Sequence[str], vectors: Tensor, *, most: int = MOST, least: float = LEAST
) -> dict[str, list[tuple[str, float]]]:
    """Each word's neighbours and their cosines, the nearest first.

    Args:
        words: n of them.
        vectors: (n, d). A word whose vector is 0 has no neighbours and is none.
        most: neighbours of a word.
        least: their least cosine.

    Returns:
        What `CandidateTable` takes. Words without a neighbour are not in it. Cosines are rounded
        to four places, and equal ones stand in the order of the words.

    Cost: n²·d multiplications, in blocks of 512 words; 65,713 random vectors of 300 numbers took 50
    CPU seconds on one core, and the process 0.8 GB.
    """
    lengths = vectors.norm(dim=1, keepdim=True)
    unit = torch.where(lengths > 0, vectors / lengths, torch.nan)  # no angle with a zero vector
    found: dict[str, list[tuple[str, float]]] = {}
    for start in trange(0, len(words), _ROWS, desc="Neighbours", unit="block", leave=False):
        cosines = unit[start : start + _ROWS] @ unit.T
        own = torch.arange(start, start + len(cosines))
        cosines[torch.arange(len(own)), own] = torch.nan
        cosines.nan_to_num_(nan=-torch.inf)
        best, places = cosines.topk(min(most, len(words)), dim=1)
        for row, (values, others) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
            near = [
                (-round(value, 4), other)
                for value, other in zip(values, others, strict=True)
                if value >= least
            ]
            if near:
                found[words[start + row]] = [
                    (words[other], -value) for value, other in sorted(near)
                ]
    return found
