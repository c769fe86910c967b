"""A language model as a classifier of requests: refused or answered, so that all attacks fit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.attacks.chat.judge import Judge

REFUSED, ANSWERED = 0, 1
NAMES = ("refused", "answered")
FORWARD = ("input_ids", "attention_mask", "completion_mask")  # what `Answering` takes


class Answering(nn.Module):
    """Prompt and target in, logits (B, 2) out: 0 for refused, the judge's m for answered.

    PGD on the logit margin then climbs towards the target, at any site of the model; an example
    is fooled where the judge says that it was answered.

    Args:
        model: a causal language model.
        judge: what counts as answered.
        tokenizer: of the model.
    """

    def __init__(self, model: Any, judge: Judge, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.judge, self.config = model, judge, model.config
        self._openers = judge.openers(tokenizer)

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        found: nn.Module = self.model.get_input_embeddings()
        return found

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, completion_mask: Tensor
    ) -> SimpleNamespace:
        """Logits of the two classes.

        Args:
            input_ids, attention_mask: (B, T), prompts and targets, padded on the right.
            completion_mask: (B, T), 1 on what is judged of the targets.
        """
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        openers = self._openers.to(logits.device)
        margin = self.judge.margin(logits, input_ids, completion_mask, openers)
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(margin), margin], 1), loss=None)
