"""Corners of a training run where a pass, a number or a file could silently be wrong."""

import json

import pytest
import torch
from models import checkpoint, tiny
from tiny_training import build, distance, logged, trained, weights

from nlp_adv import AdversarialTrainer
from nlp_adv.errors import UserError
from nlp_adv.methods import FGM, METHODS
from nlp_adv.perturbation import L2Ball
from nlp_adv.training.records import ConstantPredictionAlarm

ON_TEXTS = sorted(n for n, one in METHODS.items() if not hasattr(one, "reads_completions"))


@pytest.mark.parametrize("adv", [name for name in ON_TEXTS if name != "none"])
def test_checkpointing_makes_embeddings_require_a_gradient_and_changes_nothing(tmp_path, adv):
    plain = trained(tmp_path, adv=adv)
    model = tiny("bert", dropout=0.1)
    checkpoint(model)
    model.enable_input_require_grads()  # as PEFT and newer versions of checkpointing do
    assert distance(weights(trained(tmp_path, model=model, adv=adv)), weights(plain)) < 1e-12


def test_a_loss_set_on_the_trainer_itself_is_used_in_all_passes_and_stays(tmp_path):
    trainer = build(tmp_path, adv="freelb", adv_steps=3)
    stock, calls = trainer.compute_loss, []

    def doubled(model, inputs, return_outputs=False, **kwargs):
        calls.append(return_outputs)
        loss, outputs = stock(model, inputs, return_outputs=True, **kwargs)
        return (2 * loss, outputs) if return_outputs else 2 * loss

    trainer.compute_loss = doubled
    trainer.train()
    assert trainer.compute_loss is doubled
    assert len(calls) == 2 * (1 + 3)  # two steps: one look at the embedding, three passes
    reference = trained(tmp_path, adv="freelb", adv_steps=3)
    # The same start and dropout, twice the loss: at the first step, before an update.
    assert logged(trainer, "loss")[0] == pytest.approx(2 * logged(reference, "loss")[0], rel=1e-6)


class _Tokenizer:
    """All that the Trainer's mask asks of a tokenizer; every word counts as special."""

    all_special_ids = tuple(range(200))

    def save_pretrained(self, folder):
        raise AssertionError("not saved here")


def test_a_batch_without_a_free_token_is_an_error(tmp_path):
    trainer = build(tmp_path, adv="fgm", adv_exclude_special_tokens=True)
    trainer.processing_class = _Tokenizer()
    with pytest.raises(UserError, match="No token of a batch may move"):
        trainer.train()


def test_a_radius_that_is_a_tensor_can_be_written_down(tmp_path):
    method = FGM(L2Ball(torch.tensor(0.25)))
    trainer = trained(tmp_path, AdversarialTrainer, options={"method": method})
    trainer.save_model(str(tmp_path / "model"))
    saved = json.loads((tmp_path / "model" / "adversarial_config.json").read_text("utf-8"))
    assert (saved["method"], saved["epsilon"]) == ("fgm", 0.25)


def test_ignored_labels_are_no_class(caplog):
    alarm = ConstantPredictionAlarm()
    logits, labels = torch.tensor([[0.0, 1.0]]).repeat(300, 1), torch.ones(300, dtype=torch.long)
    labels[::2] = -100
    alarm.add(logits, labels)
    alarm.check()
    assert not alarm.raised
    labels[1] = 0
    alarm.add(logits, labels)
    alarm.check()
    assert alarm.raised
