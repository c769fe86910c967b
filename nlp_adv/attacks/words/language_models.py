"""Models that attacks consult besides the victim: a masked language model, a sentence encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nlp_adv.attacks.words.encoding import Row, Splicer
from nlp_adv.attacks.words.example import FillRequest, SimilarityRequest
from nlp_adv.attacks.words.own_functions import called, name_of
from nlp_adv.attacks.words.victim import Runner
from nlp_adv.errors import UserError
from nlp_adv.perturbation.evaluating import evaluating

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

# Texts → (N, D), of any length: the angle between two rows says how alike the texts are.
SentenceEncoder = Callable[[list[str]], Any]


class MaskedLanguageModel:
    """Answers `FillRequest`s.

    Args:
        model: a Hugging Face model with a masked-language head.
        tokenizer: its own, which need not be the victim's.
        max_length: tokens after which a text is cut.
        fingerprint: of the weights or their name, for the protocol's hash.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int = 128,
        fingerprint: str = "",
    ) -> None:
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint
        self._runner = Runner(model, tokenizer)
        self._splicer = Splicer(tokenizer, max_length)

    def word(self, ids: list[int]) -> str | None:
        """The word that tokens spell; None where it is none, or one token only a piece of it."""
        word = str(self.tokenizer.decode(ids)).strip()
        if not word.isalpha():
            return None
        # A lone token is a word if it is what the tokenizer makes of that word.
        return word if len(ids) > 1 or self._splicer.ids(f" {word}") == tuple(ids) else None

    def __call__(
        self, requests: Sequence[FillRequest]
    ) -> list[list[list[list[tuple[int, float]]]]]:
        """For each request and each of its texts: per token of the word, the likeliest tokens."""
        texts = [words for request in requests for words in request.texts]
        templates = self._splicer.templates([(words, None) for words in texts])
        places = [place for request in requests for place in request.places]
        spans = [
            template.spans(words)[place]
            for template, words, place in zip(templates, texts, places, strict=True)
        ]
        count = max(request.count for request in requests)
        asked: dict[Row, set[int]] = {}  # a text is run once, whatever is asked of it
        for template, span in zip(templates, spans, strict=True):
            asked.setdefault(template.original, set()).update(span)
        with evaluating(self._runner.model):
            answers = self._likeliest(asked, count)
        results = iter(
            [answers[template.original, token] for token in span]
            for template, span in zip(templates, spans, strict=True)
        )
        return [
            [[token[: request.count] for token in next(results)] for _ in request.texts]
            for request in requests
        ]

    def _likeliest(
        self, asked: dict[Row, set[int]], count: int
    ) -> dict[tuple[Row, int], list[tuple[int, float]]]:
        rows = list(asked)

        def run(places: list[int]) -> Iterable[dict[int, list[tuple[int, float]]]]:
            chosen = [rows[place] for place in places]
            return self._run(chosen, [sorted(asked[row]) for row in chosen], count)

        found = self._runner.map(rows, run)
        pairs = zip(rows, found, strict=True)
        return {(row, token): best for row, tokens in pairs for token, best in tokens.items()}

    def _run(
        self, rows: list[Row], tokens: list[list[int]], count: int
    ) -> Iterable[dict[int, list[tuple[int, float]]]]:
        with self._runner.count(rows, backward=False), torch.inference_mode():
            batch = self._runner.padded(rows)
            logits = self._runner.model(**batch)["logits"]
            starts = batch["attention_mask"].argmax(1).tolist()  # not 0 with padding on the left
            results = []
            for one, start, wanted in zip(logits, starts, tokens, strict=True):
                log_p = one[[start + token for token in wanted]].float().log_softmax(-1)
                best = log_p.topk(min(count, log_p.shape[-1]))
                pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                lists = [list(zip(ids, values, strict=True)) for ids, values in pairs]
                results.append(dict(zip(wanted, lists, strict=True)))
        return results


@dataclass
class Similarity:
    """Answers `SimilarityRequest`s with cosines of a sentence encoder's outputs.

    Args:
        encoder: texts → (N, D).
        fingerprint: of it, for the protocol's hash.
    """

    encoder: SentenceEncoder
    fingerprint: str = ""

    def __call__(self, requests: Sequence[SimilarityRequest]) -> list[list[float]]:
        """Cosine of each text of a request with its first one; each text is encoded once."""
        texts = list(dict.fromkeys(text for request in requests for text in request.texts))
        vectors = self._vectors(texts)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
        place = {text: number for number, text in enumerate(texts)}
        results = []
        for request in requests:
            first, *others = (vectors[place[text]] for text in request.texts)
            results.append([float(first @ other) for other in others])
        return results

    def _vectors(self, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
        who = f"The sentence encoder {name_of(self.encoder)}"
        found = called(who, self.encoder, texts)
        try:
            vectors = np.asarray(found, dtype=np.float64)
        except (TypeError, ValueError):
            vectors = np.zeros(0)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise UserError(
                f"{who} returned {found!r:.80} for {len(texts)} texts, the first of them "
                f"{texts[0]!r:.60}; it must return a row of finite numbers for each."
            )
        return vectors


class MeanPooledEncoder:
    """A sentence encoder of a Hugging Face model: the mean of its last states over the tokens.

    Reimers and Gurevych, "Sentence-BERT", EMNLP-IJCNLP 2019, as most of its checkpoints pool.

    Args:
        model: a bare encoder.
        tokenizer: its own.
        max_length: tokens after which a text is cut.
    """

    def __init__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, max_length: int = 128
    ) -> None:
        self._runner = Runner(model, tokenizer)
        self._splicer = Splicer(tokenizer, max_length)

    def __call__(self, texts: list[str]) -> Tensor:
        """(N, D)."""
        rows = self._splicer.whole([(text, None) for text in texts])
        with evaluating(self._runner.model):
            means = self._runner.map(rows, lambda places: self._run([rows[p] for p in places]))
        return torch.stack(means)

    def _run(self, rows: list[Row]) -> Iterable[Tensor]:
        with self._runner.count(rows, backward=False), torch.inference_mode():
            batch = self._runner.padded(rows)
            states = self._runner.model(**batch)["last_hidden_state"]
            mask = batch["attention_mask"][..., None]
            return list(((states * mask).sum(1) / mask.sum(1)).float().cpu().unbind())
