"""Methods that read completions on two processes, accumulated, and in bfloat16."""

import tempfile
from pathlib import Path

import pytest
import torch
from forked import found_by_two
from models import VOCAB, tiny
from paired import collated
from tiny_training import distance, weights

from nlp_adv import AdversarialTrainer, AdversarialTrainingArguments
from nlp_adv.methods import CAPO, CAT, LAT, RR
from nlp_adv.perturbation import L2Ball

TOKENS = L2Ball(0.4, "token")
METHODS = {"cat": CAT(TOKENS, 0.15, 3), "capo": CAPO(TOKENS, 0.15, 3), "lat": LAT(TOKENS, 0.15, 3)}
METHODS["rr"] = RR(2.0, 0.5, 1.5)


def data(count=8):
    """Prompts, two completions of each, and a utility row, in numbers."""
    generator = torch.Generator().manual_seed(2)

    def words(length):
        return torch.randint(4, VOCAB, (length,), generator=generator).tolist()

    return [
        {"prompt": words(2 + i % 3), "rejected": words(3), "chosen": words(2), "useful": words(5)}
        for i in range(count)
    ]


def collate(rows):
    rejected, chosen = ([(r["prompt"], r[name]) for r in rows] for name in ("rejected", "chosen"))
    utility = [(r["useful"][:2], r["useful"][2:]) for r in rows]
    return collated([*rejected, *chosen, *utility], len(rows))


class InOrder(AdversarialTrainer):
    """Each optimizer step has the same rows, however they are shared out."""

    def _get_train_sampler(self, *args):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def run(name, processes, accumulation=1, *, dtype=torch.float64, **flags):
    """The weights after two steps, and what was logged."""
    with tempfile.TemporaryDirectory() as folder:
        given = {"max_steps": 2, "use_cpu": True, "report_to": [], "save_strategy": "no"}
        given |= {"per_device_train_batch_size": 4 // processes // accumulation}
        given |= {"gradient_accumulation_steps": accumulation, "logging_steps": 1, "seed": 0}
        given |= {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0, "disable_tqdm": True}
        given |= {"remove_unused_columns": False}
        trainer = InOrder(
            model=tiny("gpt2_lm").to(dtype),
            args=AdversarialTrainingArguments(folder, **{**given, **flags}),
            train_dataset=data(),
            data_collator=collate,
            method=METHODS[name],
        )
        trainer.ref_model = tiny("gpt2_lm").to(dtype).requires_grad_(False)
        trainer.ref_model.transformer.wte.weight.data *= 0.7
        trainer.train()
        return weights(trainer), [e for e in trainer.state.log_history if "adv_loss" in e]


def found(folder: Path, cases):
    return {case: run(*case) for case in cases}


def test_two_processes_and_micro_batches_train_as_one(tmp_path):
    cases = [(name, 2, accumulation) for name in METHODS for accumulation in (1, 2)]
    first, second = found_by_two(found, tmp_path, cases)
    for name in METHODS:
        whole, logs = run(name, 1)
        assert distance(whole, tiny("gpt2_lm").state_dict()) > 1e-3
        others = [first[name, 2, 1], first[name, 2, 2], run(name, 1, 2)]
        for other, log in others:
            assert distance(other, whole) < 1e-10, name
            for one, two in zip(log, logs, strict=True):
                assert one["adv_loss"] == pytest.approx(two["adv_loss"], rel=1e-5)
        for accumulation in (1, 2):
            case = (name, 2, accumulation)
            assert distance(second[case][0], first[case][0]) == 0


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_trains_nearly_as_float32(name):
    exact, _ = run(name, 1, dtype=torch.float32)
    coarse, logs = run(name, 1, dtype=torch.float32, bf16=True)
    start = tiny("gpt2_lm").float().state_dict()
    assert 0 < distance(coarse, exact) < 0.1 * distance(exact, start)
    assert len(logs) == 2
