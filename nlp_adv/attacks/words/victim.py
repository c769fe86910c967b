"""The attacked model: texts of any number and length in, logits and gradients out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from nlp_adv.attacks.words.encoding import Row
from nlp_adv.attacks.words.predictor import Characters, Predictor
from nlp_adv.errors import UserError
from nlp_adv.perturbation import Output
from nlp_adv.perturbation.evaluating import logit_margin
from nlp_adv.sites.any_model import a_tensor_of, answering
from nlp_adv.sites.embeddings import EmbeddingTap, embedding_tap, find_embedding
from nlp_adv.sites.objective import text_objective

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Measured on a CPU: more tokens leave its caches and bring more padding, fewer bring more calls. An
# accelerator wants to be filled; if its memory does not hold as much, the budget halves.
TOKENS_A_BATCH = {"cpu": 1024}
TOKENS_ON_ACCELERATOR = 16384
T = TypeVar("T")


@dataclass
class Work:
    """What a model did, in all.

    Args:
        forwards, backwards: texts.
        tokens: real ones, in both.
        padded: the same with padding.
        batches: calls of the model.
        seconds: wall-clock time inside the model.
        cpu_seconds: of all threads of this process meanwhile.
    """

    forwards: int = 0
    backwards: int = 0
    tokens: int = 0
    padded: int = 0
    batches: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


@dataclass
class Runner:
    """Batches under a token budget, like lengths together; the budget halves when memory ends.

    Args:
        model: any Hugging Face model, or one that takes and returns what `answering` describes, in
            eval mode.
        tokenizer: for its padding.
        tokens_per_batch: the budget, padding included; None chooses by the device.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase | Characters
    tokens_per_batch: int | None = None
    work: Work = field(default_factory=Work)

    def __post_init__(self) -> None:
        if self.tokenizer.pad_token_id is None:
            raise UserError("The tokenizer has no padding token; set tokenizer.pad_token first.")
        if isinstance(self.model, Predictor):  # whose own size of a batch counts, not characters
            self._budget = self.tokens_per_batch or sys.maxsize
            return
        chosen = TOKENS_A_BATCH.get(self.device.type, TOKENS_ON_ACCELERATOR)
        self._budget = self.tokens_per_batch or chosen

    @property
    def device(self) -> torch.device:
        """The model's."""
        return a_tensor_of(self.model).device

    def map(self, rows: Sequence[Row], run: Callable[[list[int]], Iterable[T]]) -> list[T]:
        """`run` on the places of each batch's rows; the results in the order of the rows.

        The longest rows come first, so that what does not fit shows at once.
        """
        results: dict[int, T] = {}
        waiting = sorted(range(len(rows)), key=lambda place: -len(rows[place].ids))
        while waiting:
            size = max(1, self._budget // max(1, len(rows[waiting[0]].ids)))
            places = waiting[:size]
            try:
                results |= zip(places, run(places), strict=True)
            except torch.OutOfMemoryError:
                self._halve(len(places))
            else:
                waiting = waiting[size:]
        return [results[place] for place in range(len(rows))]

    def padded(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """A batch as the model takes it, on its device."""
        # Byte-level vocabularies make no token of an empty text, and no model runs on none.
        blank = Row((int(self.tokenizer.pad_token_id),), ())
        rows = [row if row.ids else blank for row in rows]
        longest = max(len(row.ids) for row in rows)
        left = self.tokenizer.padding_side == "left"

        def column(values: list[Sequence[int]], fill: int) -> Tensor:
            blanks = ([fill] * (longest - len(one)) for one in values)
            both = zip(values, blanks, strict=True)
            filled = [[*pad, *one] if left else [*one, *pad] for one, pad in both]
            return torch.tensor(filled, device=self.device)

        batch = {
            "input_ids": column([row.ids for row in rows], int(self.tokenizer.pad_token_id)),
            "attention_mask": column([[1] * len(row.ids) for row in rows], 0),
        }
        if rows[0].types:
            fill = self.tokenizer.pad_token_type_id
            batch["token_type_ids"] = column([row.types for row in rows], fill)
        return batch

    def _halve(self, rows: int) -> None:
        """Go on with smaller batches after the memory did not hold so many rows.

        Raises:
            UserError: it was a single one.
        """
        if rows == 1:
            raise UserError(
                "Memory does not hold one text; cut texts with --max_seq_length, or use a larger "
                "device."
            )
        self._budget = max(1, self._budget // 2)
        tqdm.write(f"Out of memory: going on with {self._budget} tokens a batch.")

    def count(self, rows: Sequence[Row], *, backward: bool) -> Clock:
        """A block whose time and rows are the model's."""
        return Clock(self.work, rows, backward)


class Clock:
    """Adds a block to the work: its time, and its rows if they went through."""

    def __init__(self, work: Work, rows: Sequence[Row], backward: bool) -> None:
        self._work, self._rows, self._backward = work, rows, backward

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __exit__(self, error: object, *_: object) -> None:
        work, lengths = self._work, [len(row.ids) for row in self._rows]
        work.seconds += time.perf_counter() - self._began[0]
        work.cpu_seconds += time.process_time() - self._began[1]
        if error is not None:
            return
        work.forwards += len(lengths)
        work.backwards += self._backward * len(lengths)
        work.tokens += sum(lengths)
        work.padded += len(lengths) * max(lengths)
        work.batches += 1


@dataclass
class Victim(Runner):
    """A sequence classifier under attack.

    Args:
        embedding: its word embedding's name, for models that do not say.
        bf16: whether its matrices are multiplied in bfloat16; weights, δ and margins stay float32.

    Attributes:
        unanswered: answers so far that held inf or nan.
    """

    embedding: str | None = None
    bf16: bool = False
    unanswered: int = field(default=0, init=False)
    _checked: bool = field(default=False, init=False)

    def word_embedding(self) -> nn.Module:
        """The module whose output gradients are taken by.

        Raises:
            UserError: it is not found, or the model is a function.
        """
        if isinstance(self.model, Predictor):
            raise UserError(
                f"{self.model.name} is a function of texts and shows no gradient, which a2t, "
                f"hotflip and everything on embeddings need; choose attacks that ask for scores "
                f"alone, such as deepwordbug, textbugger, pwws and textfooler."
            )
        return find_embedding(self.model, self.embedding)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Around all that is asked of the model, whatever its make."""
        # A cast that inference mode keeps could not be differentiated later.
        cast = torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False
        )
        with answering(self.model), cast:
            yield

    def logits(self, rows: Sequence[Row]) -> Tensor:
        """(N, C), float32 or wider, on the CPU."""
        return torch.stack(self.map(rows, lambda places: self._logits([rows[p] for p in places])))

    def gradients(self, rows: Sequence[Row], labels: Sequence[int]) -> list[Tensor]:
        """∇ of each row's logit margin by its embeddings, (tokens, width), on the CPU."""
        tap = embedding_tap(self.model, self.embedding)
        return self.map(
            rows,
            lambda places: self._gradients(
                [rows[p] for p in places], [labels[p] for p in places], tap
            ),
        )

    def _logits(self, rows: Sequence[Row]) -> Iterable[Tensor]:
        counted = self.count(rows, backward=False)
        with counted, torch.inference_mode(), self.opened():
            logits = self.model(**self.padded(rows))["logits"]
            wide = torch.promote_types(logits.dtype, torch.float32)
            logits = logits.to("cpu", wide)
        if not self._checked:
            _check(logits)
            self._checked = True
        self.unanswered += int((~torch.isfinite(logits).all(1)).sum())
        return list(logits)

    def _gradients(
        self, rows: Sequence[Row], labels: Sequence[int], tap: EmbeddingTap
    ) -> Iterable[Tensor]:
        y = torch.tensor(labels, device=self.device)
        with self.count(rows, backward=True), self.opened():
            objective = text_objective(
                self.model, self.padded(rows) | {"labels": y}, tap=tap, seed=0
            )
            delta = torch.zeros_like(objective.mask)
            grads = objective.gradient(delta, lambda output: _total_margin(output, y)).cpu()
        left = self.tokenizer.padding_side == "left"
        lengths = [len(row.ids) for row in rows]
        return [g[-n:] if left else g[:n] for g, n in zip(grads, lengths, strict=True)]


def _total_margin(output: Output, labels: Tensor) -> Tensor:
    assert output.logits is not None
    if not output.logits.requires_grad:
        raise UserError(
            "The model shows no gradient of its word embeddings (it cuts them off, or works "
            "without gradients); choose an attack that needs none, such as deepwordbug."
        )
    return logit_margin(output.logits, labels).sum()


def _check(logits: Tensor) -> None:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise UserError(
            f"Attacks need a classifier with one label a text; the model's logits have the shape "
            f"{tuple(logits.shape)}."
        )
    sums = logits.sum(1)
    if bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise UserError(
            "The model returns probabilities (its rows add up to 1), and attacks need logits: "
            "return what its softmax receives."
        )


def bf16_slowdown(device: torch.device) -> float:
    """How many times longer than float32 a product of matrices in bfloat16 takes on a device."""
    a, b = torch.ones(512, 384, device=device), torch.ones(384, 1536, device=device)
    seconds = []
    for kind in (torch.float32, torch.bfloat16):
        x, y = a.to(kind), b.to(kind)
        times = []
        for _ in range(3):
            began = time.perf_counter()
            float((x @ y)[0, 0])  # waits for an accelerator
            times.append(time.perf_counter() - began)
        seconds.append(min(times))
    return seconds[1] / seconds[0]
