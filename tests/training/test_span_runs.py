"""--adv_span in a Trainer, and what it writes beside the model."""

import json

import pytest
import torch
from models import answered, batch, tiny

from nlp_adv import AdversarialTrainer, AdversarialTrainingArguments, UserError

REAL = batch("gpt2_lm")["attention_mask"]
PROMPT = REAL * (answered()["labels"] == -100)


class Watched(AdversarialTrainer):
    def _objective(self, *args, **kwargs):
        self.found = super()._objective(*args, **kwargs)
        return self.found


def trainer(folder, full, **flags):
    given = {"max_steps": 2, "per_device_train_batch_size": 3, "use_cpu": True, "report_to": []}
    given |= {"save_strategy": "steps", "save_steps": 1, "adv": "pgd", "disable_tqdm": True}
    args = AdversarialTrainingArguments(str(folder), **{**given, **flags})
    data = [{key: value[row] for key, value in full.items()} for row in range(3)]
    return Watched(model=tiny("gpt2_lm"), args=args, train_dataset=data)


def written(folder):
    return json.loads((folder / "adversarial_config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("full", "span", "tokens", "said"),
    [
        (answered(), None, PROMPT, "prompt"),
        (answered(), "all", REAL, "all"),
        (answered(), "completion", REAL - PROMPT, "completion"),
        (batch("gpt2_lm"), None, REAL, None),
    ],
)
def test_the_span_moves_and_is_written_down(tmp_path, full, span, tokens, said):
    run = trainer(tmp_path, full, adv_span=span)
    run.train()
    assert int(run.found.mask.amax(-1).sum()) == int(tokens.sum())
    assert written(tmp_path / "checkpoint-1").get("span") == said


def test_a_run_goes_on_with_its_span_and_not_with_another(tmp_path):
    trainer(tmp_path, answered()).train()
    checkpoint = str(tmp_path / "checkpoint-1")
    trainer(tmp_path, answered()).train(resume_from_checkpoint=checkpoint)
    trainer(tmp_path, answered(), adv_span="prompt").train(resume_from_checkpoint=checkpoint)
    with pytest.raises(UserError, match=r"span prompt \(this run: all\)"):
        trainer(tmp_path, answered(), adv_span="all").train(resume_from_checkpoint=checkpoint)


def test_a_column_goes_before_the_span(tmp_path):
    own = torch.zeros(3, 7, dtype=torch.long)
    own[:, 3] = 1
    run = trainer(tmp_path, answered() | {"adv_mask": own}, adv_span="prompt")
    run.train()
    assert int(run.found.mask.amax(-1).sum()) == int((own * REAL).sum())
