"""Paired batches of numbers: rejected and chosen completions of prompts, and utility rows."""

import torch
from models import VOCAB
from torch import Tensor

from nlp_adv.columns import ADV_ROWS, CHOSEN, COMPLETION_MASK, REJECTED, UTILITY

PROMPTS, REJECTED_TOKENS, CHOSEN_TOKENS = (3, 2, 4), (2, 3, 1), (1, 2, 4)
UTILITIES = ((2, 7), (3, 1))  # (prompt, completion)


def paired(
    pairs: int = 3, utility: int = 2, *, padding: int = 0, seed: int = 1
) -> dict[str, Tensor]:
    """Rows [rejected | chosen | utility], as `PairCollator` makes them."""
    generator = torch.Generator().manual_seed(seed)

    def words(count: int) -> list[int]:
        return torch.randint(4, VOCAB, (count,), generator=generator).tolist()

    prompts = [words(length) for length in PROMPTS]
    rejected = [(p, words(n)) for p, n in zip(prompts, REJECTED_TOKENS, strict=True)][:pairs]
    chosen = [(p, words(n)) for p, n in zip(prompts, CHOSEN_TOKENS, strict=True)][:pairs]
    useful = [(words(length), words(n)) for length, n in UTILITIES][:utility]
    return collated([*rejected, *chosen, *useful], pairs, padding)


def collated(rows: list, pairs: int, padding: int = 0) -> dict[str, Tensor]:
    width = max(len(p) + len(c) for p, c in rows) + padding
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    real, completed = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(rows):
        ends = len(prompt) + len(completion)
        ids[row, :ends] = torch.tensor([*prompt, *completion])
        real[row, :ends], completed[row, len(prompt) : ends] = 1, 1
    utility = len(rows) - 2 * pairs
    groups = torch.tensor([REJECTED] * pairs + [CHOSEN] * pairs + [UTILITY] * utility)
    learnt = (completed == 1) & (groups != REJECTED)[:, None]
    batch = {"input_ids": ids, "attention_mask": real, COMPLETION_MASK: completed}
    return batch | {"labels": ids.masked_fill(~learnt, -100), ADV_ROWS: groups}


def of(batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """The rows of one group, with the labels of their completions."""
    kept = batch[ADV_ROWS] == number
    rows = {key: batch[key][kept] for key in ("input_ids", "attention_mask")}
    labels = rows["input_ids"].masked_fill(batch[COMPLETION_MASK][kept] == 0, -100)
    return rows | {"labels": labels}


class Collate:
    """Numbers of rows → paired batches, each pair with a utility row."""

    columns = ("number",)

    def __call__(self, features: list) -> dict[str, Tensor]:
        made = [row(int(feature["number"])) for feature in features]
        parts = zip(*made, strict=True)
        return collated([one for part in parts for one in part], len(made))


def row(number: int) -> tuple:
    """(prompt, completion) of a pair's rejected and chosen rows, and of a utility row."""
    generator = torch.Generator().manual_seed(number)

    def words(count: int) -> list[int]:
        return torch.randint(4, VOCAB, (count,), generator=generator).tolist()

    prompt = words(2 + number % 3)
    return (prompt, words(2)), (prompt, words(1 + number % 2)), (words(2), words(3))
