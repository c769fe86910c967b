"""Examples with several answers: tags of tokens, yes-or-no labels, next words, under one δ each."""

import math
from types import SimpleNamespace

import pytest
import torch
from models import VOCAB, tiny
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from nlp_adv.attacks import APGD, FGM, PGD, DeepFool, ladder
from nlp_adv.attacks.measured_several import MeasuredSeveral
from nlp_adv.attacks.subject import Subject
from nlp_adv.errors import UserError
from nlp_adv.perturbation import L2Ball
from nlp_adv.perturbation.evaluating import answers
from nlp_adv.robustness import embedding_evaluator, embedding_pgd, embedding_robustness

SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
    "num_labels": 4,
}
BART = BartConfig(
    vocab_size=VOCAB,
    d_model=16,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=32,
    decoder_ffn_dim=32,
    max_position_embeddings=32,
    init_std=0.3,
)
NONE = -100


def tagger(head=BertForTokenClassification, **more) -> nn.Module:
    torch.manual_seed(1)
    return head(BertConfig(**SMALL, **more)).double().eval()


def tagged(model: nn.Module, lengths=(9, 6, 4, 9)) -> dict[str, Tensor]:
    """Rows whose tags are the model's own answers but for a few, without tags at the ends."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, VOCAB, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.where(mask, ids, 0)
    labels = model(ids, attention_mask=mask.long()).logits.argmax(-1)
    labels = torch.where(torch.rand(labels.shape, generator=generator) < 0.15, 0, labels)
    labels = torch.where(mask, labels, NONE)
    labels[:, 0] = NONE
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def rows_of(batch: dict[str, Tensor], places, length: int | None = None) -> dict[str, Tensor]:
    return {key: value[places][:, :length] for key, value in batch.items()}


class Lines(nn.Module):
    """Each token is its own two-class problem: its distance to being wrong is in the table."""

    def __init__(self, distances: list[float], factor: float = 1.0) -> None:
        super().__init__()
        self.config = SimpleNamespace(pad_token_id=0, num_labels=2)
        self.table = nn.Embedding(len(distances) + 1, 3, dtype=torch.float64)
        self.head = nn.Parameter(factor * torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64))
        unit = torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64)
        with torch.no_grad():
            self.table.weight.copy_(torch.tensor([0.0, *distances])[:, None] * -unit)

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, input_ids, attention_mask=None, labels=None) -> dict[str, Tensor]:
        z = self.table(input_ids) @ self.head
        return {"logits": torch.stack([torch.zeros_like(z), z], -1)}


def line_batch(count: int) -> dict[str, Tensor]:
    ids = torch.arange(1, count + 1)[None]
    return {"input_ids": ids, "attention_mask": ids * 0 + 1, "labels": ids * 0}


class TestTheAttack:
    def test_it_is_a_naive_transcription(self):
        model = tagger()
        batch = tagged(model)
        attack = PGD(L2Ball(0.1), 0.2, 6, False, loss="margin", unit="relative", shorten=True)
        found = attack(model, batch).delta
        labels, mask = batch["labels"], batch["attention_mask"]
        x = model.get_input_embeddings()(batch["input_ids"]).detach()
        there = labels != NONE

        def margins(delta: Tensor) -> Tensor:
            out = model(inputs_embeds=x + delta, attention_mask=mask).logits
            right = out.gather(-1, labels.clamp_min(0)[..., None])[..., 0]
            others = out.scatter(-1, labels.clamp_min(0)[..., None], -math.inf).amax(-1)
            return others - right

        clean = margins(torch.zeros_like(x)).detach()
        for row in range(len(x)):
            size = (x[row] * mask[row][:, None]).norm()
            tau = 0.25 * -clean[row][there[row] & (clean[row] < 0)].mean()
            delta = torch.zeros_like(x[row])
            for step in range(6):
                leaf = delta.clone().requires_grad_()
                whole = torch.zeros_like(x)
                whole[row] = leaf
                m = margins(whole)[row][there[row]]
                if (m > 0).all():
                    break
                smooth = torch.where(m < 0, 0.9 * (m / tau).exp(), 1 - 0.1 * (-9 * m / tau).exp())
                smooth.sum().backward()
                grad = leaf.grad * mask[row][:, None]
                delta = delta + 0.2 * (1 - step / 6) * size * grad / grad.norm()
                delta = delta * min(1.0, float(0.1 * size / delta.norm()))
            assert torch.allclose(found[row], delta, rtol=1e-6, atol=1e-9)

    @pytest.mark.parametrize(
        ("radius", "wrong"), [(0.9, 0), (1.1, 1), (2.9, 1), (3.4, 2), (10.0, 2), (10.55, 3)]
    )
    def test_a_radius_is_spent_on_the_answers_it_suffices_for(self, radius, wrong):
        """Distances 1, 3, 10: with ε the first k fall where √(1 + 9 + …) < ε, and never more."""
        model = Lines([1.0, 3.0, 10.0])
        attack = embedding_pgd((radius,), steps=100, unit="absolute")
        found = embedding_robustness(model, [line_batch(3)], attack)
        assert found.said[:, 0].tolist() == [1] * wrong + [0] * (3 - wrong)

    def test_larger_logits_change_nothing(self):
        answered = [
            embedding_robustness(
                Lines([1.0, 2.0, 3.0, 4.0], factor),
                [line_batch(4)],
                embedding_pgd((1.5, 3.0, 4.0), unit="absolute"),
            ).said
            for factor in (1.0, 30.0)
        ]
        assert torch.equal(*answered)

    @pytest.mark.parametrize(
        "attack",
        [
            PGD(L2Ball(1.0), 2.0, 8, False, loss="margin", unit="relative"),
            APGD(L2Ball(1.0), 8, "margin", unit="relative"),
            FGM(L2Ball(1.0), loss="margin", unit="relative"),
        ],
        ids=lambda attack: attack.name,
    )
    def test_batch_order_and_padding_change_nothing(self, attack):
        model = tagger()
        batch, tried = tagged(model), ladder(attack, (0.05, 0.15))
        whole = embedding_robustness(model, [batch], tried)
        alone = [rows_of(batch, [row], length) for row, length in enumerate((9, 6, 4, 9))]
        single = embedding_robustness(model, alone[::-1], tried)
        assert whole.said.any()
        assert whole.by_example(whole.said) == single.by_example(single.said)[::-1]
        assert whole.accuracy(0.15) < whole.clean_accuracy


class TestWhatIsMeasured:
    def test_accuracy_is_of_answers_and_falls_with_the_radius(self):
        model = tagger()
        batch = tagged(model)
        found = embedding_robustness(model, [batch], embedding_pgd((0.02, 0.1, 0.3, 1.0)))
        assert isinstance(found, MeasuredSeveral)
        right = batch["labels"][batch["labels"] != NONE]
        said = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)
        clean = said[batch["labels"] != NONE] == right
        assert found.right_answers.tolist() == right.tolist()
        assert found.clean_accuracy == clean.double().mean().item()
        shares = [found.accuracy(e) for e in (0, *found.radii)]
        assert shares == sorted(shares, reverse=True)
        assert shares[0] > shares[-1]
        assert found.fooled[:, -1].tolist() == [
            not any(row) for row in found.by_example(found.robust(1.0))
        ]

    def test_no_delta_but_the_best_counts(self):
        """A step that leaves more answers right than δ = 0 does not hide what was found before."""
        model = tagger()
        batch = tagged(model)
        far = ladder(FGM(L2Ball(1.0), loss="margin", unit="relative"), (0.01, 50.0))
        found = embedding_robustness(model, [batch], far)
        result = FGM(L2Ball(50.0), loss="margin", unit="relative")(model, batch)
        out = answers(_logits(model, batch, result.delta))
        for row, (said, right) in enumerate(
            zip(found.by_example(found.said), found.by_example(found.right_answers), strict=True)
        ):
            there = batch["labels"][row] != NONE
            now = int((out[row][there] == batch["labels"][row][there]).sum())
            before = int((torch.tensor(said)[:, 1] == torch.tensor(right)).sum())
            assert before <= now

    def test_an_evaluator_takes_them(self):
        model = tagger()
        batch = tagged(model)
        scores = embedding_evaluator([batch], embedding_pgd((0.1,)))(model)
        assert scores["robust_accuracy"] < scores["clean_accuracy"]
        assert scores["constant_answer"] == 0.0

    def test_a_batch_without_a_right_answer_is_wrong_already(self):
        model = tagger()
        batch = tagged(model)
        said = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)
        batch["labels"] = torch.where(batch["labels"] == NONE, NONE, (said + 1) % 4)
        found = embedding_robustness(model, [batch], embedding_pgd((0.1,)))
        assert (found.clean_accuracy, found.accuracy(0.1), found.passes) == (0.0, 0.0, 0)


def _logits(model: nn.Module, batch: dict[str, Tensor], delta: Tensor) -> Tensor:
    x = model.get_input_embeddings()(batch["input_ids"]) + delta
    return model(inputs_embeds=x, attention_mask=batch["attention_mask"]).logits


class TestKindsOfAnswers:
    def test_yes_or_no_labels(self):
        model = tagger(BertForSequenceClassification, problem_type="multi_label_classification")
        batch = tagged(tagger())
        z = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        batch["labels"] = (z > 0).double()
        batch["labels"][0, 0] = 1 - batch["labels"][0, 0]
        found = embedding_robustness(model, [batch], embedding_pgd((0.1, 0.4)))
        assert found.clean_accuracy == 15 / 16
        assert found.clean_answers.tolist() == (z > 0).long().flatten().tolist()
        assert found.accuracy(0.4) < found.accuracy(0.1) <= found.clean_accuracy

    def test_the_next_words_of_a_language_model(self):
        model = tiny("gpt2_lm").eval()
        ids = torch.randint(5, VOCAB, (3, 7), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(ids)
        labels = ids.clone()
        labels[:, 1:] = model(ids, attention_mask=mask).logits.argmax(-1)[:, :-1]
        labels[:, 0] = labels[2, 4:] = NONE
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        found = embedding_robustness(model, [batch], embedding_pgd((0.3,)))
        assert found.counts.tolist() == [6, 6, 3]
        assert found.clean_accuracy == 1.0
        assert found.accuracy(0.3) < 1.0

    @pytest.mark.parametrize("name", ["t5", "bart_lm"])
    def test_the_words_that_an_encoder_decoder_is_to_write(self, name):
        """The source moves, and the decoder reads the clean target."""
        if name == "bart_lm":
            torch.manual_seed(0)
            model = BartForConditionalGeneration(BART).double().eval()
        else:
            model = tiny(name).eval()
        draw = torch.Generator().manual_seed(0)
        ids, labels = (torch.randint(5, VOCAB, (3, n), generator=draw) for n in (7, 4))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        labels = model(**batch).logits.argmax(-1)
        batch["labels"] = torch.where(torch.arange(4) == 3, NONE, labels)
        reads = model.prepare_decoder_input_ids_from_labels(batch["labels"])
        said = model(
            input_ids=ids, attention_mask=batch["attention_mask"], decoder_input_ids=reads
        ).logits.argmax(-1)
        found = embedding_robustness(model, [batch], embedding_pgd((0.5,)))
        assert found.clean_answers.tolist() == said[:, :3].flatten().tolist()
        assert found.counts.tolist() == [3, 3, 3]


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda labels: labels.clamp_min(0) + 3, "Labels are from 3 to"),
            (lambda labels: torch.full_like(labels, NONE), "No example of a batch has a label"),
            (lambda labels: labels[:, :4], "ask for logits with one more dimension"),
            (lambda labels: labels.double(), "0 or 1 each"),
        ],
    )
    def test_labels_that_are_none_of_the_models(self, change, words):
        model = tagger()
        batch = tagged(model)
        batch["labels"] = change(batch["labels"])
        with pytest.raises(UserError, match=words):
            embedding_robustness(model, [batch], embedding_pgd((0.1,)))

    def test_an_attack_that_seeks_the_smallest_delta(self):
        with pytest.raises(UserError, match="need an attack in a ball"):
            embedding_robustness(Lines([1.0]), [line_batch(1)], ladder(DeepFool(), (0.5,)))

    def test_a_target(self):
        model = tagger()
        with pytest.raises(UserError, match="cannot be led to one class"):
            Subject(model).measure(embedding_pgd((0.1,)), [tagged(model)], target=1)
        with pytest.raises(UserError, match="cannot be led to one class"):
            PGD(L2Ball(0.1), 0.1, 2)(model, tagged(model), target=1)
