"""Files of prompts for attacks on language models: requests with what an attacker wants to read."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from nlp_adv.data.files import read_file
from nlp_adv.errors import UserError

TARGETS = ("target", "rejected", "completion")


@dataclass(frozen=True)
class Prompts:
    """Requests that are to be refused.

    Args:
        prompts: the user's texts.
        targets: of each, the answer that an attacker wants, or its beginning.
        chosen: refusals, where the data holds some.
    """

    prompts: tuple[str, ...]
    targets: tuple[str, ...]
    chosen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.prompts:
            raise UserError("There are no prompts to attack; give at least one.")
        for row, (prompt, target) in enumerate(zip(self.prompts, self.targets, strict=True)):
            for name, text in (("prompt", prompt), ("target", target)):
                if not isinstance(text, str) or not text.strip():
                    raise UserError(
                        f"Row {row} has no {name}, so that there is nothing to attack or to lead "
                        f"it to; fill it in, or leave the row out."
                    )

    def drawn(self, count: int | None, seed: int) -> Prompts:
        """A random draw of so many, in their order; all without a number."""
        if count is None or count >= len(self.prompts):
            return self
        places = sorted(random.Random(seed).sample(range(len(self.prompts)), count))
        prompts, targets = (tuple(one[i] for i in places) for one in (self.prompts, self.targets))
        return Prompts(prompts, targets, self.chosen)


def read_prompts(path: Path) -> Prompts:
    """A file with the columns prompt and target (or rejected, or completion), perhaps chosen.

    Raises:
        UserError: it cannot be read, or lacks a column.
    """
    rows = read_file(path)
    wanted = next((name for name in TARGETS if name in rows.column_names), None)
    if wanted is None:
        raise UserError(
            f"{path} has no column target or rejected, the answer that an attack leads to; its "
            f"columns are {', '.join(rows.column_names)}."
        )
    chosen = tuple(filter(None, rows["chosen"][:])) if "chosen" in rows.column_names else ()
    return Prompts(_prompts(path, rows), tuple(rows[wanted][:]), chosen)


def read_benign(path: Path) -> Sequence[str]:
    """A file of harmless prompts, which a model should answer: the column prompt.

    Raises:
        UserError: it cannot be read, or lacks the column.
    """
    return _prompts(path, read_file(path))


def _prompts(path: Path, rows: Dataset) -> tuple[str, ...]:
    if "prompt" not in rows.column_names:
        names = ", ".join(rows.column_names)
        raise UserError(f"{path} has no column prompt; its columns are {names}.")
    return tuple(rows["prompt"][:])
