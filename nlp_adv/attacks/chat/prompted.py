"""Prompts and targets as batches, and what a model says to a prompt by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nlp_adv.attacks.quiet import quiet
from nlp_adv.columns import ADV_MASK, COMPLETION_MASK
from nlp_adv.errors import UserError

_AT_ONCE = 64  # prompts that are answered at once


@dataclass(frozen=True)
class Prompted:
    """Prompts through a chat template, with the answers that an attacker wants.

    Args:
        tokenizer: with a chat template.
        collator: rows of prompt and completion → ids and completion_mask, padded on the right.
        ended: whether the end of the answer is judged too; a target may be only a beginning.

    Raises:
        UserError: the tokenizer has no chat template.
    """

    tokenizer: Any
    collator: Any
    ended: bool = True

    def __post_init__(self) -> None:
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise UserError(
                f"The tokenizer {type(self.tokenizer).__name__} has no chat template, so that it "
                f"is not known what the model reads of a prompt: set tokenizer.chat_template and "
                f"save it again."
            )

    def batch(self, prompts: Sequence[str], targets: Sequence[str], given: int = 0) -> Any:
        """Rows [prompt | target]: adv_mask (B, T), labels (B,) of 0, what `Answering` takes.

        Which request each row is, is left to whoever knows.

        Args:
            prompts, targets: of each row.
            given: first tokens of each target that are given and not judged (prefilling).

        Raises:
            UserError: a target has no token left to be judged.
        """
        rows = [{"prompt": p, "completion": t} for p, t in zip(prompts, targets, strict=True)]
        made = self.collator(rows)
        answer, real = made[COMPLETION_MASK], made["attention_mask"]
        judged = answer * (answer.cumsum(1) > given)
        if not self.ended:
            ends = answer * (made["input_ids"] == self.tokenizer.eos_token_id)
            judged = judged * (ends.cumsum(1) == 0)
        if not bool(judged.any(1).all()):
            short = int((~judged.any(1)).nonzero()[0])
            raise UserError(
                f"The target {targets[short]!r:.60} has no token behind the first {given}, so "
                f"that nothing is left to be judged; give a longer target or a smaller depth."
            )
        return {
            "input_ids": made["input_ids"],
            "attention_mask": real,
            COMPLETION_MASK: judged,
            ADV_MASK: real * (1 - answer),
            "answer_begins": answer.argmax(1),
            "labels": torch.zeros(len(rows), dtype=torch.long),
        }

    def ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """The ids of each prompt in the chat template, up to its answer, as `batch` has them.

        Cost: one call of the template and one of the tokenizer for all of them.
        """
        if not prompts:
            return []
        turns = [[{"role": "user", "content": one}] for one in prompts]
        written = self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        found: list[list[int]] = self.tokenizer(written, add_special_tokens=False)["input_ids"]
        return found

    def check_room(
        self, prompts: Sequence[str], targets: Sequence[str], more: int, longest: int | None
    ) -> int:
        """How many targets lose their end to the collator's max_length.

        Args:
            prompts, targets: of each row.
            more: tokens that attacks put between them.
            longest: tokens that the model can read; None where it does not say.

        Raises:
            UserError: a row with room for no token of its target, or one that the model cannot
                read whole.
        """
        most, cut = self.collator.max_length, 0
        written = [self.tokenizer(one, add_special_tokens=False)["input_ids"] for one in targets]
        for row, (ids, target) in enumerate(zip(self.ids(prompts), written, strict=True)):
            taken = len(ids) + more
            limit = ""
            if taken >= most:
                limit = f"the {most} of --max_seq_length (max_length)"
            elif min(taken + len(target), most) > (longest or most):
                limit = f"the {longest} that the model can read"
            if limit:
                raise UserError(
                    f"The prompt {prompts[row]!r:.40} of row {row} has {len(ids)} tokens, and with "
                    f"{more} of attacks and {len(target)} of its target it does not fit into "
                    f"{limit}; shorten it, or leave it out."
                )
            cut += taken + len(target) > most
        return cut

    def suffixed(self, prompts: Sequence[str], targets: Sequence[str], length: int) -> Any:
        """The same with so many tokens behind each prompt, which alone may move."""
        filler = next((one for one in ("!", "the") if self._single(one)), None)
        if filler is None:
            raise UserError("No filler word is one token in this tokenizer; leave out soft-suffix.")
        longer = [" ".join([prompt, *[filler] * length]) for prompt in prompts]
        batch, bare = self.batch(longer, targets), self.batch(prompts, targets)
        moves = torch.zeros_like(batch["input_ids"])
        for row, (ids, short) in enumerate(zip(batch["input_ids"], bare["input_ids"], strict=True)):
            size = int(bare[ADV_MASK][row].sum())
            same = ids[:size] == short[:size]
            begin = size if bool(same.all()) else int((~same).nonzero()[0])
            moves[row, begin : begin + int(batch[ADV_MASK][row].sum()) - size] = 1
        return {**batch, ADV_MASK: moves}

    def _single(self, word: str) -> bool:
        ids = self.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        return len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id

    def answers(self, model: Any, prompts: Sequence[str], new_tokens: int = 32) -> list[str]:
        """What a model says to each prompt, greedily.

        Prompts are padded on the left, so that each answer begins right behind its prompt.
        """
        said: list[str] = []
        device = next(model.parameters()).device
        for at in range(0, len(prompts), _AT_ONCE):
            some = prompts[at : at + _AT_ONCE]
            made = self.collator([{"prompt": one, "completion": "."} for one in some])
            keep = (made["attention_mask"] == 1) & (made[COMPLETION_MASK] == 0)
            ids, real = _left(made["input_ids"], keep)
            with quiet(model), torch.no_grad():
                found = model.generate(
                    input_ids=ids.to(device),
                    attention_mask=real.to(device),
                    max_new_tokens=new_tokens,
                    do_sample=False,
                    pad_token_id=self.tokenizer.pad_token_id,
                )
            new = found[:, ids.shape[1] :]
            said += self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return said


def _left(ids: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """The kept tokens of each row, moved to the right end, and their mask."""
    width = int(keep.sum(1).max())
    moved, real = torch.zeros(len(ids), width, dtype=ids.dtype), torch.zeros(len(ids), width)
    for row, (own, kept) in enumerate(zip(ids, keep, strict=True)):
        tokens = own[kept]
        moved[row, width - len(tokens) :] = tokens
        real[row, width - len(tokens) :] = 1
    return moved, real.long()
