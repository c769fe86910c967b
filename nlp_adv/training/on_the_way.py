"""The model as it was on the way: what it knew when it was less trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class KeptOnTheWay(TrainerCallback):
    """Saves the model after shares of its training, to compare other models with.

        trainer.add_callback(KeptOnTheWay(trainer, [0.25, 0.5]))

    Robust accuracy falls while clean accuracy grows, so that a method has to be compared with plain
    training at its own clean accuracy; these models draw that curve (`nlp_adv.robustness.matched`).
    They are weights and tokenizer alone, and nothing to resume from. Of a training of N steps the
    model after a share s is that after ⌈s·N⌉ steps. One that is resumed has those that it passed
    before.

    Args:
        trainer: whose model it is.
        shares: each above 0 and below 1.

    Raises:
        ValueError: a share that is none.

    Cost: the size of the model on the disk for each share.
    """

    def __init__(self, trainer: Trainer, shares: Sequence[float]) -> None:
        if wrong := [share for share in shares if not 0 < share < 1]:
            raise ValueError(f"A share of the training is between 0 and 1, not {wrong[0]:g}.")
        self._trainer = trainer
        self._shares = shares

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Save the model where a share is reached."""
        for share in self._shares:
            if state.global_step == math.ceil(share * state.max_steps):
                self._trainer.save_model(str(folder_at(str(args.output_dir), share)))


def folder_at(output_dir: str | Path, share: float) -> Path:
    """Where the model after that share of the training is."""
    return Path(output_dir) / f"at-{share:g}"
