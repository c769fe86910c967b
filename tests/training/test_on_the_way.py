"""Models kept on the way: the weights of that step, loadable, and of every share asked for."""

from __future__ import annotations

import math

import pytest
import torch
from models import tiny
from transformers import AutoModelForSequenceClassification, TrainingArguments

from nlp_adv import AdversarialTrainer
from nlp_adv.methods import FGM
from nlp_adv.perturbation import L2Ball
from nlp_adv.training.on_the_way import KeptOnTheWay, folder_at


def rows(count: int = 14) -> list[dict[str, list[int] | int]]:
    return [{"input_ids": [2, 5 + i % 7, 9, 3], "labels": i % 2} for i in range(count)]


def test_the_model_is_that_of_the_step(tmp_path):
    shares = (0.25, 0.6, 0.9)
    args = TrainingArguments(
        str(tmp_path),
        max_steps=7,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        save_strategy="steps",
        save_steps=1,
        report_to="none",
        use_cpu=True,
    )
    trainer = AdversarialTrainer(
        model=tiny("bert").float(), args=args, train_dataset=rows(), method=FGM(L2Ball(0.1))
    )
    trainer.add_callback(KeptOnTheWay(trainer, shares))
    trainer.train()
    for share in shares:
        kept = AutoModelForSequenceClassification.from_pretrained(folder_at(tmp_path, share))
        step = tmp_path / f"checkpoint-{math.ceil(share * 7)}"
        there = AutoModelForSequenceClassification.from_pretrained(step)
        for mine, theirs in zip(kept.parameters(), there.parameters(), strict=True):
            assert torch.equal(mine, theirs)
    assert not folder_at(tmp_path, 0.5).exists()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, math.nan])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        KeptOnTheWay(None, [0.5, share])
