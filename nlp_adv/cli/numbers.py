"""Numbers of TrainingArguments that no run can have, refused before anything is read."""

from __future__ import annotations

import math
from typing import Any

from nlp_adv.errors import UserError

_WHOLE = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "eval_accumulation_steps",
    "save_total_limit",
    "dataloader_prefetch_factor",
)
# flag: its least value, and the one that it must stay below
_RANGES: dict[str, tuple[float, float]] = {
    **{name: (1, math.inf) for name in _WHOLE},
    "learning_rate": (0, math.inf),
    "weight_decay": (0, math.inf),
    "max_grad_norm": (0, math.inf),
    "adam_beta1": (0, 1),
    "adam_beta2": (0, 1),
    "adam_epsilon": (0, math.inf),
    "label_smoothing_factor": (0, 1),
    "neftune_noise_alpha": (0, math.inf),
    "warmup_steps": (0, math.inf),
    "num_train_epochs": (0, math.inf),
    "logging_steps": (0, math.inf),
    "eval_steps": (0, math.inf),
    "save_steps": (0, math.inf),
    "eval_delay": (0, math.inf),
    "max_steps": (-1, math.inf),
    "dataloader_num_workers": (0, math.inf),
    "seed": (0, 2**32),
    "data_seed": (0, 2**32),
}


def check_numbers(training: Any) -> None:
    """Refuse a number that is out of the range in which it means something, nan included.

    Raises:
        UserError: the first one that is.
    """
    for name, (least, end) in _RANGES.items():
        value = getattr(training, name, None)
        if value is None or isinstance(value, str) or least <= value < end:
            continue
        below = f" and below {end:g}" if end < math.inf else " and finite"
        raise UserError(f"--{name} is {value:g}; it must be at least {least:g}{below}.")
    if training.save_strategy == "steps" and training.save_steps == 0:
        raise UserError("--save_steps is 0; to save nothing, pass --save_strategy no.")
