"""Pairs of completions of one prompt, for methods that train towards one and away from the other.

What a row of the data may hold (`cat`, `capo`, `lat` and `rr` train on such rows):

    prompt, chosen, rejected      a pair: what to answer, and what not to
    messages                      a utility row: an ordinary conversation, the last turn is learnt
    prompt, completion            the same of two parts
    …, utility                    beside a pair: one or several such utility rows, so that every
                                  batch has its share of them (see `with_utility`)

Prompts and completions are texts, or lists of messages {"role": …, "content": …}. A text is a turn
of the chat where the tokenizer has a chat template, and plain text where it has none. Rows of both
kinds may be mixed.

    trainer = AdversarialTrainer(model, args, train_dataset=rows, data_collator=PairCollator(tok))

The collator makes one batch of them, padded on the right, rows [rejected | chosen | utility]:

    input_ids, attention_mask, completion_mask (R, T)
    labels (R, T)                 the completions, −100 on prompts, padding and all rejected rows
    adv_rows (R,)                 0 rejected, 1 chosen, 2 utility

so that ordinary training on it (`--adv none`, evaluation) is that of the chosen and utility rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from nlp_adv.columns import ADV_ROWS, CHOSEN, COMPLETION_MASK, REJECTED, UTILITY
from nlp_adv.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NONE = -100  # the label of a token that has none
COLUMNS = ("prompt", "chosen", "rejected", "utility", "messages", "completion")

_NEEDED = (
    "a row needs prompt, chosen and rejected (a pair), or messages, or prompt and completion "
    "(a utility row)"
)


@dataclass(frozen=True)
class Tokenized:
    """One row: the ids of the prompt, and those of the completion."""

    prompt: list[int]
    completion: list[int]


@dataclass
class PairCollator:
    """Rows of the data → one paired batch; see the module for the columns.

        from nlp_adv import PairCollator
        from nlp_adv.data.chat_demo import chat_tokenizer

        collator = PairCollator(chat_tokenizer(), max_length=64)
        batch = collator(
            [
                {
                    "prompt": "how do i paint a drum ?",
                    "chosen": "sorry , i cannot help .",
                    "rejected": "sure , first sand you paint tape .",
                }
            ]
        )

    Args:
        tokenizer: with a chat template, where the data holds messages.
        max_length: tokens of a row; what is longer loses its end.
        chat: whether a text is a turn of the chat; None where the tokenizer has a chat template.
        pad_to_multiple_of: lengths of batches.

    Raises:
        UserError: when called: a row lacks a column, has two unlike prompts, has messages and the
            tokenizer no template, or has no room for its completion.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int = 512
    chat: bool | None = None
    pad_to_multiple_of: int | None = None

    columns: ClassVar[tuple[str, ...]] = COLUMNS
    """Of the data, which a Trainer must keep for it."""

    def __call__(self, features: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch of some rows."""
        rejected: list[Tokenized] = []
        chosen: list[Tokenized] = []
        utility: list[Tokenized] = []
        for feature in features:
            row = {key: value for key, value in feature.items() if value is not None}
            if "chosen" in row or "rejected" in row:
                one, other = self._pair(row)
                chosen.append(one)
                rejected.append(other)
            elif "messages" in row or "completion" in row:
                utility.append(self._utility(row))
            elif "utility" not in row:
                raise UserError(f"A row has the columns {', '.join(row) or 'none'}; {_NEEDED}.")
            utility += [self._utility(one) for one in _several(row.get("utility", ()))]
        numbers = [REJECTED] * len(rejected) + [CHOSEN] * len(chosen) + [UTILITY] * len(utility)
        return self._padded([*rejected, *chosen, *utility], numbers)

    def _pair(self, row: Mapping[str, Any]) -> tuple[Tokenized, Tokenized]:
        """(chosen, rejected)."""
        missing = [name for name in ("chosen", "rejected") if name not in row]
        if missing:
            raise UserError(f"A row of the data has no {missing[0]}; {_NEEDED}.")
        chosen, rejected = row["chosen"], row["rejected"]
        if "prompt" in row:
            prompts = (row["prompt"], row["prompt"])
        elif isinstance(chosen, str) or isinstance(rejected, str):
            raise UserError(f"A row of the data has no prompt; {_NEEDED}.")
        else:  # whole conversations
            prompts = (chosen[:-1], rejected[:-1])
            chosen, rejected = chosen[-1:], rejected[-1:]
        one, other = (
            self._tokenized(prompt, completion)
            for prompt, completion in zip(prompts, (chosen, rejected), strict=True)
        )
        if one.prompt != other.prompt:
            raise UserError(
                f"The prompts of chosen and rejected differ in a row ({prompts[0]!r:.80} and "
                f"{prompts[1]!r:.80}); one δ on the prompt serves both, so give both one prompt."
            )
        return one, other

    def _utility(self, row: Any) -> Tokenized:
        if isinstance(row, str):
            ids = self._ids(row, special=True)
            return Tokenized([], self._cut(ids + self._end(), 0))
        row = {key: value for key, value in row.items() if value is not None}
        if "messages" in row:
            return self._tokenized(row["messages"][:-1], row["messages"][-1:])
        if "prompt" not in row or "completion" not in row:
            raise UserError(
                f"A utility row has the columns {', '.join(row) or 'none'}; it needs messages, or "
                f"prompt and completion."
            )
        return self._tokenized(row["prompt"], row["completion"])

    def _tokenized(self, prompt: Any, completion: Any) -> Tokenized:
        """The two parts, tokenized one by one: a prompt's ids are the same before any completion.

        The completion ends with the template's end of a turn, or the tokenizer's token for it.
        """
        template = getattr(self.tokenizer, "chat_template", None)
        texts = isinstance(prompt, str) and isinstance(completion, str)
        if not texts or (self.chat if self.chat is not None else template is not None):
            if template is None:
                raise UserError(
                    f"The tokenizer {type(self.tokenizer).__name__} has no chat template, which "
                    f"messages need: set tokenizer.chat_template, or give prompt, chosen and "
                    f"rejected as plain texts."
                )
            before, after = self._templated(_turns(prompt, "user"), _turns(completion, "assistant"))
            ids = self._ids(before, special=False)
            end = list[int]()
        else:
            before, after = prompt, completion
            ids, end = self._ids(before, special=True), self._end()
        return Tokenized(ids, self._cut(self._ids(after, special=False) + end, len(ids)))

    def _templated(self, prompt: list[Any], completion: list[Any]) -> tuple[str, str]:
        template: Callable[..., Any] = self.tokenizer.apply_chat_template
        before = template(prompt, tokenize=False, add_generation_prompt=True)
        whole = template([*prompt, *completion], tokenize=False)
        if not whole.startswith(before):
            raise UserError(
                "The tokenizer's chat template writes a prompt otherwise where an answer follows, "
                "so that prompt and completion cannot be told apart; give them as plain texts "
                "(PairCollator(chat=False)), or mend the template."
            )
        return before, whole[len(before) :]

    def _ids(self, text: str, *, special: bool) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def _end(self) -> list[int]:
        end = self.tokenizer.eos_token_id
        return [] if end is None else [int(end)]

    def _cut(self, completion: list[int], taken: int) -> list[int]:
        room = self.max_length - taken
        if room < 1 or not completion:
            raise UserError(
                f"A prompt has {taken} tokens and its completion {len(completion)}, so that none "
                f"of the completion is within max_length={self.max_length}; raise it, or leave "
                f"such rows out."
            )
        return completion[:room]

    def _padded(self, rows: Sequence[Tokenized], numbers: list[int]) -> dict[str, Tensor]:
        if not rows:
            raise UserError("A batch of pairs needs at least one row.")
        width = max(len(row.prompt) + len(row.completion) for row in rows)
        if self.pad_to_multiple_of:
            width = -(-width // self.pad_to_multiple_of) * self.pad_to_multiple_of
        pad = self.tokenizer.pad_token_id
        ids = torch.full((len(rows), width), 0 if pad is None else int(pad))
        real, completed = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, one in enumerate(rows):
            begins, ends = len(one.prompt), len(one.prompt) + len(one.completion)
            ids[row, :ends] = torch.tensor([*one.prompt, *one.completion])
            real[row, :ends] = 1
            completed[row, begins:ends] = 1
        groups = torch.tensor(numbers)
        learnt = (completed == 1) & (groups != REJECTED)[:, None]
        return {
            "input_ids": ids,
            "attention_mask": real,
            "labels": ids.masked_fill(~learnt, NONE),
            COMPLETION_MASK: completed,
            ADV_ROWS: groups,
        }


def with_utility(
    pairs: Iterable[Mapping[str, Any]],
    utility: Sequence[Any],
    *,
    each: int = 7,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Rows of pairs with utility rows beside them, so that every batch has the same share.

    Args:
        pairs: rows with prompt, chosen and rejected.
        utility: rows with messages, or prompt and completion; each comes equally often, in a
            random order.
        each: utility rows beside a pair; 7 is Xhonneux et al.'s share of ⅞.
        seed: of the order.
    """
    draws, order, rows = random.Random(seed), list[Any](), list[dict[str, Any]]()
    for pair in pairs:
        while utility and len(order) < each:
            order += draws.sample(utility, len(utility))
        beside, order = order[:each], order[each:]
        rows.append({**pair, "utility": beside})
    return rows


def _turns(part: Any, role: str) -> list[Any]:
    return [{"role": role, "content": part}] if isinstance(part, str) else list(part)


def _several(utility: Any) -> list[Any]:
    """The utility rows beside a pair: one, or several, or one conversation."""
    if isinstance(utility, str | Mapping):
        return [utility]
    rows = list(utility)
    if rows and isinstance(rows[0], Mapping) and "role" in rows[0]:
        return [{"messages": rows}]
    return rows
