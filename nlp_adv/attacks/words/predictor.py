"""Any function of texts as a model: a pipeline, scikit-learn, ONNX, an API.

Attacks that only ask for scores need no tokens and no gradient. A `Predictor` is a module that
reads characters as token ids and asks the function for the texts they spell, so that everything
that attacks a model attacks a function too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from nlp_adv.attacks.words.own_functions import called, found_at
from nlp_adv.errors import UserError

Texts = list[str] | list[tuple[str, str]]
Predict = Callable[[Texts], Any]

_PAD, _BETWEEN = 0x110000, 0x110001  # beyond the last character of Unicode
_SUM = 1e-3  # by which probabilities may miss 1
_LEAST = torch.finfo(torch.float64).tiny  # a probability of 0 has a logarithm too


class Predictor(nn.Module):
    """A function of texts, for `evaluate_robustness` and its attacks.

        model = Predictor(pipeline.predict_proba, name="tf-idf v2", classes=("bad", "good"))
        evaluate_robustness(model, model.tokenizer, rows, ["deepwordbug", "pwws"], …)

    Its answers are remembered, so that a text is asked for once; what a killed run has finished is
    in its records and not asked for again. a2t, hotflip and everything on embeddings need a
    gradient and say so.

    Args:
        predict: texts (or pairs of them) → scores (N, C), an array, a tensor or lists. Rows that
            add up to 1 and hold nothing below 0 are taken for probabilities, and their logarithms
            for logits; anything else is logits.
        name: of this model, with its version: it stands for its weights in the fingerprint, so that
            records of two versions are not taken for one.
        classes: names of the columns; their numbers without.
        batch_size: at most so many texts a call.
        per_second: at most so many texts a second; None does not wait.
        remembered: so many answers are kept, the last ones.

    Raises:
        UserError: no name, a size below 1; in a call, a function that fails, scores that are none.
    """

    def __init__(
        self,
        predict: Predict,
        *,
        name: str,
        classes: Sequence[str] = (),
        batch_size: int = 64,
        per_second: float | None = None,
        remembered: int = 100_000,
    ) -> None:
        super().__init__()
        if not name:
            raise UserError("A function has no weights to be known by: give it a name.")
        if batch_size < 1 or remembered < 0 or (per_second is not None and not per_second > 0):
            raise UserError("batch_size, per_second and remembered must be above 0.")
        self.name, self.batch_size, self.per_second = name, batch_size, per_second
        self.tokenizer = Characters()
        self.asked = 0
        self._predict, self._remembered = predict, remembered
        self._known: dict[Any, Tensor] = {}
        self._next = 0.0
        self.register_buffer("identity", torch.tensor(list(name.encode()), dtype=torch.uint8))
        names = dict(enumerate(map(str, classes)))
        if names:
            self.config = SimpleNamespace(
                num_labels=len(names), id2label=names, label2id={v: k for k, v in names.items()}
            )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (B, C), float64, of the texts that the ids spell."""
        rows = zip(input_ids.tolist(), attention_mask.tolist(), strict=True)
        texts = [_spelt([i for i, there in zip(*row, strict=True) if there]) for row in rows]
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        found = dict(self._known)
        for start in range(0, len(new), self.batch_size):
            some = new[start : start + self.batch_size]
            found |= zip(some, self._ask(some), strict=True)
        logits = torch.stack([found[text] for text in texts])
        kept = [*self._known, *new][-self._remembered :] if self._remembered else []
        self._known = {text: found[text] for text in kept} if new else self._known
        return logits

    def _ask(self, texts: list[Any]) -> Tensor:
        if self.per_second is not None:
            time.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + len(texts) / self.per_second
        # A model that the function loads at its first call must not be one of inference mode.
        with torch.inference_mode(False), torch.no_grad():
            answer = called(self.name, self._predict, texts)
        self.asked += len(texts)
        given = answer.detach().cpu() if isinstance(answer, Tensor) else numpy.asarray(answer)
        try:
            scores = torch.as_tensor(given).double()
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.name} returns something that holds no numbers.") from error
        wanted = getattr(getattr(self, "config", None), "num_labels", None)
        if scores.ndim != 2 or len(scores) != len(texts) or scores.shape[1] < 2:
            raise UserError(
                f"{self.name} returned scores of shape {tuple(scores.shape)} for {len(texts)} "
                f"texts; attacks need one row a text with a score for each of two classes or more."
            )
        if wanted is not None and scores.shape[1] != wanted:
            raise UserError(
                f"{self.name} returns {scores.shape[1]} scores a text, and has {wanted} classes."
            )
        sums = scores.sum(1)
        if bool((scores >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=_SUM):
            return scores.clamp_min(_LEAST).log()
        return scores


@contextmanager
def asked_again(model: nn.Module) -> Iterator[None]:
    """For the time of a block a function is asked whatever it was asked before."""
    if not isinstance(model, Predictor):
        yield
        return
    known, kept = model._known, model._remembered
    model._known, model._remembered = {}, 0
    try:
        yield
    finally:
        model._known, model._remembered = known, kept


def predictor_at(place: str) -> Predictor | None:
    """The function that FILE.py:NAME says; None where that is no such place.

    The file may hold CLASSES, the names of the columns. Its text is the function's version.

    Raises:
        UserError: no such file or function, or the file cannot be run.
    """
    found = found_at(place)
    if found is None or isinstance(found.value, Predictor):
        return found and found.value
    classes = getattr(found.module, "CLASSES", ())
    model = Predictor(found.value, name=f"{place} {found.version}", classes=classes)
    if not hasattr(model, "config"):
        count = model._ask(["a text"]).shape[1]
        model.config = SimpleNamespace(num_labels=count, id2label={}, label2id={})
    return model


class Characters:
    """What stands for a tokenizer: one token a character, and one between the texts of a pair.

    It takes and returns what attacks ask of a fast tokenizer of transformers.
    """

    is_fast = True
    pad_token_id, pad_token_type_id, pad_token = _PAD, 0, ""
    mask_token = unk_token = eos_token = None
    padding_side = truncation_side = "right"
    model_max_length = 10**9

    def __call__(
        self,
        texts: Sequence[str],
        others: Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
        truncation: bool = False,
        max_length: int | None = None,
        return_offsets_mapping: bool = False,
        verbose: bool = False,
    ) -> _Encoded:
        """Characters of texts, or of pairs; nothing is ever cut, since nothing is too long."""
        pairs = [(t, None) for t in texts] if others is None else zip(texts, others, strict=True)
        return _Encoded(list(pairs))


class _Encoded(dict[str, Any]):
    """Ids, and which text and character each is of."""

    def __init__(self, pairs: Sequence[tuple[str, str | None]]) -> None:
        super().__init__()
        self._pairs = pairs
        self["input_ids"] = [
            [*map(ord, a), *([] if b is None else [_BETWEEN, *map(ord, b)])] for a, b in pairs
        ]
        self["offset_mapping"] = [
            [*_places(a), *([] if b is None else [(0, 0), *_places(b)])] for a, b in pairs
        ]

    def sequence_ids(self, row: int) -> list[int | None]:
        """0 or 1 of each character, None between the texts."""
        first, second = self._pairs[row]
        rest = [] if second is None else [None, *[1] * len(second)]
        return [*[0] * len(first), *rest]


def _places(text: str) -> list[tuple[int, int]]:
    return [(place, place + 1) for place in range(len(text))]


def _spelt(ids: Sequence[int]) -> str | tuple[str, str]:
    kept = [i for i in ids if i != _PAD]
    if _BETWEEN not in kept:
        return "".join(map(chr, kept))
    place = kept.index(_BETWEEN)
    return "".join(map(chr, kept[:place])), "".join(map(chr, kept[place + 1 :]))
