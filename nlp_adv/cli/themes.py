"""The Trainer's own flags by theme: transformers has more than a hundred of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import fields

# The first pattern that a name begins with is its theme; the last theme takes what is left.
_THEMES = {
    "length and batches": (
        "output_dir|do_|num_train_epochs|max_steps|per_device|gradient_accumulation|average_tokens"
        "|auto_find_batch"
    ),
    "optimizer and learning rate": (
        "optim|learning_rate|lr_|warmup|weight_decay|adam_|max_grad_norm|label_smoothing|neftune"
    ),
    "evaluation": "eval_|batch_eval|include_for_metrics|include_inputs|prediction_loss_only",
    "checkpoints and the best model": (
        "save_|load_best|metric_for_best|greater_is_better|resume|ignore_data_skip|restore_"
        "|enable_jit_checkpoint"
    ),
    "logs": (
        "log|report_to|run_name|project|trackio|disable_tqdm|include_num|include_tokens"
        "|skip_memory_metrics|debug"
    ),
    "precision, memory and speed": (
        "bf16|fp16|tf32|half_precision|gradient_checkpointing|activation_checkpointing"
        "|torch_compile|torch_empty|use_liger|liger|use_cache|jit"
    ),
    "seeds and loading of data": (
        "seed|data_seed|full_determinism|dataloader|remove_unused|label_names|train_sampling"
        "|group_by|length_column|accelerator_config"
    ),
    "the Hub": "hub_|push_to_hub",
    "devices and processes": "",
}
TITLE = "The Trainer's own (transformers.TrainingArguments)"


def is_trainers(kind: type) -> bool:
    """Whether a class of flags is a TrainingArguments, without importing them for the question."""
    module = sys.modules.get("transformers.training_args")
    return module is not None and issubclass(kind, module.TrainingArguments)


def names_of_trainers(kinds: Iterable[type]) -> set[str]:
    """The names of the Trainer's own flags among those of some classes of flags."""
    if not any(map(is_trainers, kinds)):
        return set()
    return {one.name for one in fields(sys.modules["transformers.training_args"].TrainingArguments)}


def themes() -> list[str]:
    """The titles, in their order."""
    return [f"{TITLE}: {theme}" for theme in _THEMES]


def theme_of(name: str) -> str:
    """The title under which a flag of the Trainer stands."""
    theme = next(theme for theme, pattern in _THEMES.items() if re.match(pattern, name))
    return f"{TITLE}: {theme}"
