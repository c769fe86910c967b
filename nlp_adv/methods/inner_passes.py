"""Cheaper ascents: passes for δ alone in bfloat16, without dropout, or above δ alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from nlp_adv.methods.around import Around, bare
from nlp_adv.methods.method import StepReport
from nlp_adv.perturbation import InnerVerbs, Objective, StepError, without_dropout


@dataclass(frozen=True)
class InnerPasses(Around):
    """`method`, whose passes for δ alone are cheaper; full passes are as they were to the last bit.

        InnerPasses(PGD(L2Ball(0.3), 0.1, steps=3), precision="bf16")

    Such a pass looks for a direction, of which each slice's length is thrown away; what is trained
    on comes from full passes.

    Args:
        method: one that makes passes for δ alone, and compares no outputs in them: pgd, fgsm and
            fgm where their first gradient is not the clean pass's, awp.
        precision: "bf16" runs their forward halves under autocast to bfloat16, and so their
            backward halves; None is that of the full passes.
        dropout: they have the dropout mask of the step's full passes; without it they have none.
        prefix: "once" computes what lies below a layer that δ enters in the first of a step's
            passes for δ alone, and not again; δ is the same. For methods that make several of them,
            those that compare outputs too.

    Errors: ValueError for other methods, or where nothing would change; StepError for
    a model that is not in float32, or a run that is in bfloat16 or float16 already; for a prefix
    of a compiled model, or of pixels and embeddings, below which there is nothing.

    Deviations: none by the prefix, which is what modules gave that were called before δ entered; a
    function between them runs again. Without dropout a step's passes no longer share one mask
    (FreeLB, §3.3): δ is found for the whole network, and trained on in a part of it. Models run in
    evaluation mode then, but for BatchNorm, so that gradient checkpointing and LayerDrop are off in
    these passes as well. In bfloat16 an accelerator may draw other masks.

    Cost: in floating-point operations the method's, and with a prefix that of the layers above δ: a
    pass for ∇δ at half depth costs ½ of a step as it is (no gradient goes below δ), and ⅓ from the
    second on. On a CPU with a BERT of six layers a pass for
    ∇δ took 0.70 of an ordinary step, and 0.60 without dropout; bfloat16 pays where the hardware has
    it (0.35 with Intel's AMX), and took ten steps where it has not.
    """

    precision: Literal["bf16"] | None = None
    dropout: bool = True
    prefix: Literal["once"] | None = None

    def __post_init__(self) -> None:
        if self.precision not in (None, "bf16"):
            raise ValueError(
                f"inner_precision (--adv_inner_precision) must be bf16, not {self.precision!r}."
            )
        if self.prefix not in (None, "once"):
            raise ValueError(
                f"inner_prefix (--adv_inner_prefix) must be once, not {self.prefix!r}."
            )
        cheaper = self.precision is not None or not self.dropout
        if not cheaper and self.prefix is None:
            raise ValueError(
                "InnerPasses changes nothing without a precision and a prefix, and with dropout."
            )
        if cheaper and getattr(bare(self.method), "compares_outputs", False):
            raise ValueError(
                f"inner_precision and inner_dropout (--adv_inner_…) are not for {self.name}, whose "
                f"ascent compares outputs: it would climb on rounding or on dropout, not on δ."
            )
        if not self.method.inner_passes:
            raise ValueError(
                f"inner_precision, inner_dropout, inner_prefix (--adv_inner_…) change passes for δ "
                f"alone, and {self.name} makes none with these settings: all of its passes train "
                f"the weights."
            )
        if self.prefix and self.method.inner_passes < 2:
            raise ValueError(
                f"inner_prefix (--adv_inner_prefix) spares the second pass for δ and later ones, "
                f"and {self.name} makes one with these settings."
            )

    @property
    def prefix_once(self) -> bool:
        """What lies below δ is computed in the first pass for ∇δ alone."""
        return self.prefix == "once"

    def step(self, objective: Objective) -> StepReport:
        """The method's step."""
        if not isinstance(objective, InnerVerbs):
            raise StepError("Cheaper passes for δ (--adv_inner_…) need an objective of a model.")
        device, model = objective.x.device.type, objective.model
        if self.precision:
            _check_dtype(objective, device)

        @contextmanager
        def cheaply() -> Iterator[None]:
            with ExitStack() as stack:
                if self.precision:
                    stack.enter_context(torch.autocast(device, torch.bfloat16))
                if not self.dropout:
                    stack.enter_context(without_dropout(model))
                yield

        inner = objective.inner_within(cheaply, prefix_once=self.prefix_once)
        return self.method.step(inner)


def _check_dtype(objective: Objective, device: str) -> None:
    if objective.x.dtype != torch.float32 or torch.is_autocast_enabled(device):
        raise StepError(
            "inner_precision (--adv_inner_precision) bf16 is for a model that trains in float32; "
            "this one does not, so that nothing would be cheaper: leave it off."
        )
