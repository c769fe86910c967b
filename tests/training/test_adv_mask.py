"""A column `adv_mask` of the data, and --adv_site, in a Trainer."""

import json

import pytest
import torch
from datasets import Dataset
from models import LENGTHS, batch, tiny
from tiny_training import hooks
from torch import Tensor
from transformers import BertTokenizer, DataCollatorWithFlattening, DataCollatorWithPadding

from nlp_adv import AdversarialTrainer, AdversarialTrainingArguments, FreeLB, L2Ball, UserError
from nlp_adv.training.masks import CollatesMask

FULL = batch("bert")
# Only the second token of each row may move, and the third of the last one as well.
OWN = [[0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0], [0, 1, 1, 0]]


def rows(masks=OWN) -> list[dict]:
    found = []
    for index, (length, mask) in enumerate(zip(LENGTHS, masks, strict=True)):
        ids = FULL["input_ids"][index, :length].tolist()
        found.append({"input_ids": ids, "attention_mask": [1] * length, "labels": index % 2})
        if mask is not None:
            found[-1]["adv_mask"] = mask
    return found


@pytest.fixture
def tokenizer(tmp_path) -> BertTokenizer:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", *map(str, range(1, 60))]))
    return BertTokenizer(str(tmp_path / "vocab.txt"), pad_token="[PAD]")


class Watched(AdversarialTrainer):
    """Keeps what it perturbs, and what `compute_loss` is given."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.masks: list[Tensor] = []
        self.keys: set[str] = set()

    def compute_loss(self, model, inputs, **options):
        self.keys |= set(inputs)
        return super().compute_loss(model, inputs, **options)

    def _objective(self, *args, **kwargs):
        objective = super()._objective(*args, **kwargs)
        self.masks.append(objective.mask.amax(-1).int())
        return objective


def trainer(folder, data, collator=None, tokenizer=None, **options) -> Watched:
    given = {"max_steps": 2, "per_device_train_batch_size": 3, "use_cpu": True, "report_to": []}
    given |= {"logging_steps": 1, "save_strategy": "no", "seed": 0, "data_seed": 0}
    args = AdversarialTrainingArguments(str(folder), **{**given, **options})
    return Watched(
        model=tiny("bert"),
        args=args,
        train_dataset=data,
        eval_dataset=data,
        data_collator=collator,
        processing_class=tokenizer,
        method=None if args.adv != "none" else FreeLB(L2Ball(0.5), 0.2, 2),
    )


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("arrow", [False, True], ids=["list", "datasets"])
def test_only_the_marked_tokens_are_perturbed(tmp_path, tokenizer, side, arrow):
    """With a collator that pads, on the tokenizer's side, and does not know the column."""
    tokenizer.padding_side = side
    data = Dataset.from_list(rows()) if arrow else rows()
    run = trainer(tmp_path, data, DataCollatorWithPadding(tokenizer), tokenizer)
    run.train()
    assert run.evaluate()["eval_loss"] > 0
    assert run.predict(data).predictions.shape == (3, 2)
    assert "adv_mask" not in run.keys
    assert not hooks(run.model)
    right = [mask + [0] * (7 - len(mask)) for mask in OWN]
    left = [[0] * (7 - len(mask)) + mask for mask in OWN]
    for mask in run.masks:
        assert sorted(mask.tolist()) == sorted(right if side == "right" else left)


def test_two_micro_batches_keep_their_own(tmp_path, tokenizer):
    """One row each, and only the first row's second token is free in its own."""
    data = rows([[0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 1], [0, 0, 1, 0]])
    sizes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3, "max_steps": 1}
    run = trainer(tmp_path, data, DataCollatorWithPadding(tokenizer), tokenizer, **sizes)
    run.train()
    got = sorted(mask[0].tolist() for mask in run.masks)
    assert got == sorted(row["adv_mask"] for row in data)


def test_a_batch_without_the_column_is_free_after_one_with_it(tmp_path):
    run = trainer(tmp_path, rows())
    run.current_gradient_accumulation_steps = 1  # a loop of one's own
    given = dict(FULL)
    run.training_step(run.model, given | {"adv_mask": torch.eye(3, 7)})
    run.training_step(run.model, given)
    run._prepare_inputs(given | {"adv_mask": torch.eye(3, 7)})  # an evaluation between two steps
    run.training_step(run.model, given)
    assert torch.equal(run.masks[0], torch.eye(3, 7).int() * FULL["attention_mask"].int())
    assert torch.equal(run.masks[1], FULL["attention_mask"].int())
    assert torch.equal(run.masks[2], FULL["attention_mask"].int())


def test_replays_of_one_batch_have_its_mask(tmp_path, tokenizer):
    options = {"adv": "freeat", "adv_replays": 2, "max_steps": 4}
    run = trainer(tmp_path, rows(), DataCollatorWithPadding(tokenizer), tokenizer, **options)
    run.train()
    assert len(run.masks) == 4
    assert all(int(mask.sum()) == 4 for mask in run.masks)


def test_packed_rows_and_choices_are_collated():
    unlabelled = [{key: row[key] for key in row if key != "labels"} for row in rows()]
    packed = CollatesMask(DataCollatorWithFlattening(), "right")(unlabelled)
    assert packed["adv_mask"].tolist() == [OWN[0] + OWN[1] + OWN[2]]

    def choices(features):
        return {"input_ids": torch.zeros(len(features), 2, 3)}

    features = [{"input_ids": [[5, 6], [5, 6, 7]], "adv_mask": [[0, 1], [1, 0, 1]]}] * 2
    got = CollatesMask(choices, "right")(features)["adv_mask"]
    assert got.tolist() == [[[0, 1, 0], [1, 0, 1]]] * 2


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ([[0, 1], *OWN[1:]], "has 5 input_ids and an adv_mask of 2"),
        ([None, *OWN[1:]], "Some rows of the data have the column adv_mask"),
        ([[0] * n for n in LENGTHS], "No token of a batch may move"),
        (["01010", *OWN[1:]], "is a list of 0 and 1"),
    ],
)
def test_a_column_that_is_none_is_refused(tmp_path, tokenizer, masks, said):
    run = trainer(tmp_path, rows(masks), DataCollatorWithPadding(tokenizer), tokenizer)
    with pytest.raises(UserError, match=said):
        run.train()


# --- --adv_site


@pytest.mark.parametrize(
    ("site", "tokens"),
    [
        ("layer:bert.encoder.layer.0", 7),
        ("embedding:bert.embeddings.position_embeddings", 7),
        ("embedding,layer:bert.pooler", 8),
    ],
)
def test_a_preset_trains_at_any_site(tmp_path, site, tokens):
    data = [{key: value[i] for key, value in FULL.items()} for i in range(3)]
    run = trainer(tmp_path / "out", data, adv="freelb", adv_site=site, logging_steps=2)
    run.train()
    run.save_model()
    assert run.masks[0].shape == (3, tokens)
    assert 0.025 < run.state.log_history[0]["delta_relative"] < 0.0300001  # the preset's ε
    assert not hooks(run.model)
    assert json.loads((tmp_path / "out/adversarial_config.json").read_text())["site"] == site


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"adv_site": "layers:x"}, "names no site"),
        ({"adv_site": "layer:x", "adv_embedding": "y"}, "both say where δ enters"),
    ],
)
def test_a_site_that_is_none_is_refused_with_the_flags(tmp_path, flags, said):
    with pytest.raises(UserError, match=said):
        AdversarialTrainingArguments(str(tmp_path), adv="freelb", **flags)


def test_a_module_that_the_model_lacks_is_refused_before_a_step(tmp_path):
    run = trainer(tmp_path, rows(), adv="pgd", adv_site="layer:bert.encoder.layer.7")
    with pytest.raises(UserError, match=r"near names are 'bert.encoder.layer"):
        run.train()
    assert run.state.global_step == 0
