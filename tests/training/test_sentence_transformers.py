"""Trainers of sentence-transformers under the mixin: each column of a loss has a δ of its own."""

import importlib.util
import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import METHODS, assert_one_sentence, distance, logged, slowly

pytest.importorskip("sentence_transformers")

import transformers as hf
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    CoSENTLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cosine_similarity,
    cross_entropy,
)

from nlp_adv import AdversarialArguments, AdversarialMixin, UserError

pytestmark = pytest.mark.fault("T7")

EPSILON, STEP, STEPS = 0.5, 0.2, 3  # of METHODS


class AdversarialSentences(AdversarialMixin, SentenceTransformerTrainer):
    pass


class AdversarialPairs(AdversarialMixin, CrossEncoderTrainer):
    pass


@dataclass
class SentenceFlags(AdversarialArguments, SentenceTransformerTrainingArguments):
    pass


@dataclass
class PairFlags(AdversarialArguments, CrossEncoderTrainingArguments):
    pass


# --- models and texts made here


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """BERT of two layers with a tokenizer of one id a word."""
    folder = tmp_path_factory.mktemp("bert")
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(40)))
    vocabulary = {name: index for index, name in enumerate(names)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "sep_token": "[SEP]"}
    hf.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    config = hf.BertConfig(
        vocab_size=len(names),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = hf.BertForSequenceClassification(config)
        for parameter in model.parameters():  # so large that δ matters
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return str(folder)


def sentences(folder: str) -> SentenceTransformer:
    modules = [Transformer(folder), Pooling(16, "mean")]
    return SentenceTransformer(modules=modules, device="cpu").double()


def pairs(folder: str) -> CrossEncoder:
    return CrossEncoder(folder, num_labels=1, device="cpu").double()


def texts(*columns: str, scored: bool = False) -> Dataset:
    generator = torch.Generator().manual_seed(1)

    def words() -> str:
        count = int(torch.randint(2, 7, (1,), generator=generator))
        return " ".join(f"w{i}" for i in torch.randint(40, (count,), generator=generator).tolist())

    rows = [{name: words() for name in columns} for _ in range(8)]
    labels = torch.rand(8, generator=generator).tolist()
    return Dataset.from_list(
        [row | ({"label": y} if scored else {}) for row, y in zip(rows, labels, strict=True)]
    )


# --- the losses by hand, of the model's own output at the embedding + δ


def embedded(model: Any, given: dict[str, Tensor]) -> Tensor:
    """The mean over the real tokens."""
    hidden = model[0].model(**given).last_hidden_state
    real = given["attention_mask"][..., None].to(hidden.dtype)
    return (hidden * real).sum(1) / real.sum(1)


def ranking(model, columns, batch):
    anchor, *candidates = (embedded(model, given) for given in columns)
    similar = cosine_similarity(anchor[:, None], torch.cat(candidates)[None], dim=-1)
    return cross_entropy(20.0 * similar, torch.arange(len(anchor)))


def cosent(model, columns, batch):
    """log(1 + Σ exp 20(cos of a pair − cos of a pair with a larger label))."""
    one, two = (embedded(model, given) for given in columns)
    score, labels = 20.0 * cosine_similarity(one, two), batch["label"]
    apart = score[:, None] - score[None]
    wrong = apart[labels[:, None] < labels[None]]
    return torch.logsumexp(torch.cat([torch.zeros(1, dtype=wrong.dtype), wrong]), 0)


def crossing(model, columns, batch):
    logits = model[0].model(**columns[0]).logits[:, 0]
    return binary_cross_entropy_with_logits(logits, batch["label"])  # a float32, as theirs


@dataclass(frozen=True)
class Case:
    """A Trainer, its loss, the columns of its data, and the loss by hand."""

    loss: Callable[[Any], nn.Module]
    columns: tuple[str, ...]
    naive: Callable[..., Tensor]
    scored: bool = False
    build: Callable[[str], Any] = sentences
    trainer: type = AdversarialSentences
    flags: type = SentenceFlags


CASES = {
    "ranking": Case(MultipleNegativesRankingLoss, ("anchor", "positive"), ranking),
    # Its second call is of both other columns.
    "ranking-negatives": Case(
        MultipleNegativesRankingLoss, ("anchor", "positive", "negative"), ranking
    ),
    "cosent": Case(CoSENTLoss, ("first", "second"), cosent, scored=True),
    "cross-encoder": Case(
        BinaryCrossEntropyLoss, ("query", "passage"), crossing, True, pairs, AdversarialPairs,
        PairFlags,
    ),
}  # fmt: skip


class Heard(hf.TrainerCallback):
    """The first batch, the random state before it, and the first step's gradient."""

    def __init__(self, trainer) -> None:
        self.batch, self.state, self.gradient = {}, None, {}
        prepare = trainer._prepare_inputs

        def prepared(inputs):
            made = prepare(inputs)
            if self.state is None:
                self.batch, self.state = dict(made), torch.get_rng_state()
            return made

        trainer._prepare_inputs = prepared
        trainer.add_callback(self)

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.gradient = self.gradient or gradients(model)


def gradients(model) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def build(folder, tmp_path, case: Case, **options: Any):
    model = case.build(folder)
    given = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 4, "max_steps": 1,
        "learning_rate": 0.0, "max_grad_norm": 0, "logging_steps": 1, "save_strategy": "no",
        "disable_tqdm": True, "report_to": "none", "use_cpu": True,
    }  # fmt: skip
    flags = {name: options.pop(name) for name in list(options) if name not in ("method", "loss")}
    loss = options.pop("loss", case.loss)
    return case.trainer(
        model=model,
        args=case.flags(**given | flags),
        train_dataset=texts(*case.columns, scored=case.scored),
        loss=loss(model),
        **options,
    )


class Naive:
    """The methods on a list of δ, one for each column."""

    def __init__(self, trainer, case: Case, heard: Heard) -> None:
        self.model, self.case, self.batch = trainer.model, case, heard.batch
        self.state = heard.state
        names = dict.fromkeys(k[: -len("input_ids")] for k in self.batch if k.endswith("input_ids"))
        inputs = ("input_ids", "attention_mask", "token_type_ids")
        self.columns = [
            {key: self.batch[name + key] for key in inputs if name + key in self.batch}
            for name in names
        ]
        if not self.columns:  # the loss of a cross-encoder makes ids of its texts
            asked = list(zip(self.batch["query"], self.batch["passage"], strict=True))
            made = trainer.model.preprocess(asked)
            self.columns = [{key: made[key] for key in inputs if key in made}]
        self.table = trainer.model[0].model.get_input_embeddings()
        self.masks = [given["attention_mask"][..., None].double() for given in self.columns]
        self.zero = [
            torch.zeros(*given["input_ids"].shape, 16, dtype=torch.float64)
            for given in self.columns
        ]

    def loss(self, deltas: list[Tensor]) -> Tensor:
        waiting = [delta * mask for delta, mask in zip(deltas, self.masks, strict=True)]
        add = self.table.register_forward_hook(lambda m, a, output: output + waiting.pop(0))
        torch.set_rng_state(self.state)
        try:
            return self.case.naive(self.model, self.columns, self.batch)
        finally:
            add.remove()

    def ascent(self, deltas: list[Tensor], size: float) -> list[Tensor]:
        leaves = [delta.clone().requires_grad_() for delta in deltas]
        moved = []
        for delta, grad in zip(deltas, torch.autograd.grad(self.loss(leaves), leaves), strict=True):
            delta = delta + size * grad / grad.norm(dim=(1, 2), keepdim=True)
            length = delta.norm(dim=(1, 2), keepdim=True)
            moved.append(delta * (EPSILON / length).clamp(max=1.0))
        return moved

    def gradient(self, adv: str) -> dict[str, Tensor]:
        self.model.train()
        self.model.zero_grad()
        getattr(self, adv)()
        return gradients(self.model)

    def fgm(self) -> None:
        (0.5 * self.loss(self.zero)).backward()
        (0.5 * self.loss(self.ascent(self.zero, EPSILON))).backward()

    def pgd(self) -> None:
        deltas = self.zero
        for _ in range(STEPS):
            deltas = self.ascent(deltas, STEP)
        self.loss(deltas).backward()

    def freelb(self) -> None:
        deltas = self.zero
        for _ in range(STEPS):
            (self.loss(deltas) / STEPS).backward()
            deltas = self.ascent(deltas, STEP)


def without_dropout(model) -> None:
    """Columns that are embedded together draw other masks than columns that are not."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


@pytest.mark.parametrize("adv", [*slowly("fgm", "pgd"), "freelb"])
@pytest.mark.parametrize("name", CASES)
def test_a_step_is_the_formulas(folder, tmp_path, name, adv):
    case = CASES[name]
    trainer = build(folder, tmp_path, case, method=METHODS[adv])
    if name == "ranking-negatives":
        without_dropout(trainer.model)
    heard = Heard(trainer)
    trainer.train()
    naive = Naive(trainer, case, heard)
    assert distance(heard.gradient, naive.gradient(adv)) < 1e-10
    naive.model.zero_grad()
    naive.loss(naive.zero).backward()
    assert distance(heard.gradient, gradients(naive.model)) > 1e-4


@pytest.mark.parametrize("name", ["ranking", "cross-encoder"])
def test_the_flags_stand_beside_their_own(folder, tmp_path, name):
    """Several steps, the last of them with fewer rows, with ε as a share of the embeddings."""
    case = CASES[name]
    flags = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 3}
    trainer = build(folder, tmp_path, case, adv="freelb", adv_steps=2, learning_rate=1e-3, **flags)
    trainer.train()
    assert len(logged(trainer, "adv_loss")) == trainer.state.global_step == 6
    assert all(0 < value <= 0.0301 for value in logged(trainer, "delta_relative"))
    assert not [m for m in trainer.model.modules() if m._forward_hooks]


def test_gradient_caching_is_refused_in_one_sentence(folder, tmp_path):
    """Its forward pass has no graph, and runs again in the backward pass."""
    trainer = build(
        folder, tmp_path, CASES["ranking"], adv="pgd", loss=CachedMultipleNegativesRankingLoss
    )
    with pytest.raises(UserError, match="gradient caching") as caught:
        trainer.train()
    assert_one_sentence(caught.value)
    assert not [m for m in trainer.model.modules() if m._forward_hooks]


@pytest.mark.slow
def test_the_recipe_that_measures(folder, tmp_path, monkeypatch):
    """Its page, picture and figures of tiny models; a second run measures nothing anew."""
    name = tmp_path / "model"
    sentences(folder).float().save(str(name))
    rows = [
        {"sentence1": row["a"], "sentence2": row["b"], "label": place % 2}
        for place, row in enumerate(texts("a", "b"))
    ]
    for part in ("train", "validation"):
        Dataset.from_list(rows).to_json(tmp_path / f"{part}.jsonl")
        rows = [row | {"sentence1": row["sentence1"] + " w1"} for row in rows]
    recipe = Path(__file__).parents[2] / "recipes" / "sentence_pairs.py"
    spec = importlib.util.spec_from_file_location("sentence_pairs", recipe)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "sentence_pairs", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    words = ["--model_name_or_path", str(name), "--data", str(tmp_path), "--pairs", "4"]
    words += ["--fresh_layers", "1", "--seeds", "0", "--output_dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [str(recipe), *words])
    module.main()
    found = json.loads((tmp_path / "results" / "sentence_pairs.json").read_text())
    assert found.keys() == {"none", "fgm", "at the start"}
    for method in found.values():
        means = [one["mean"] for one in method.values()]
        assert means == sorted(means, reverse=True)
        assert means[0] > means[-1]
    assert "from_plain" in found["fgm"]["0.05"]
    assert (tmp_path / "results" / "found.svg").stat().st_size > 1000
    monkeypatch.setattr(module, "fine_tuned", None)
    page = (tmp_path / "results" / "README.md").read_text(encoding="utf-8")
    module.main()
    assert (tmp_path / "results" / "README.md").read_text(encoding="utf-8") == page


def test_the_recipe(folder, tmp_path, monkeypatch):
    pairs, out = tmp_path / "pairs.csv", tmp_path / "out"
    texts("anchor", "positive").to_csv(pairs, index=False)
    sentences(folder).float().save(str(tmp_path / "model"))
    flags = "--adv freelb --adv_steps 2 --use_cpu --max_steps 1 --save_strategy no --report_to none"
    recipe = Path(__file__).parents[2] / "recipes" / "sentence_transformers_pairs.py"
    words = [str(recipe), str(tmp_path / "model"), str(pairs), "--output_dir", str(out)]
    monkeypatch.setattr(sys, "argv", [*words, *flags.split()])
    runpy.run_path(str(recipe), run_name="__main__")
    assert '"freelb"' in (out / "adversarial_config.json").read_text(encoding="utf-8")
    assert SentenceTransformer(str(out), device="cpu").encode("w1 w2").shape == (16,)
    assert len(recipe.read_text(encoding="utf-8").splitlines()) <= 40
