"""What a model returns, in whatever form, and a loop of one's own around it."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models import batch, gradients, tiny
from torch import Tensor, nn
from transformers import BertConfig, BertForQuestionAnswering, BertForTokenClassification
from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput

from nlp_adv import FreeLB, L2Ball, RDrop, text_objective
from nlp_adv.methods import TRADES
from nlp_adv.perturbation import FrozenDropout, StepError, logits_of, random_sources
from nlp_adv.perturbation.running import model_forward

LOSS, LOGITS = torch.tensor(1.5), torch.arange(6.0).view(2, 3)


@pytest.mark.fault("T14")
@pytest.mark.parametrize(
    "outputs",
    [
        {"loss": LOSS, "logits": LOGITS},
        SequenceClassifierOutput(loss=LOSS, logits=LOGITS),
        SimpleNamespace(loss=LOSS, logits=LOGITS),
        (LOSS, LOGITS),
        (LOSS, LOGITS, (LOGITS, LOGITS)),
    ],
)
def test_loss_and_logits_in_any_form(outputs):
    got = model_forward(lambda: outputs, {})
    assert got.loss is LOSS
    assert got.logits is LOGITS
    assert got.labelled


@pytest.mark.fault("T14")
@pytest.mark.parametrize("outputs", [{"logits": LOGITS}, (LOGITS,), LOGITS])
def test_without_labels_there_are_logits_alone(outputs):
    got = model_forward(lambda: outputs, {})
    assert not got.labelled
    assert got.logits is LOGITS


@pytest.mark.fault("T14")
@pytest.mark.parametrize("outputs", [{}, SimpleNamespace(), ()])
def test_neither_loss_nor_logits_is_said(outputs):
    with pytest.raises(StepError, match="no loss"):
        model_forward(lambda: outputs, {})


@pytest.mark.fault("T14")
def test_logits_wherever_they_are():
    assert logits_of(LOGITS) is LOGITS
    assert logits_of((LOGITS, LOSS)) is LOGITS
    assert logits_of([LOSS, LOGITS]) is LOGITS
    assert logits_of(LOSS) is None
    assert logits_of(None) is None
    assert logits_of({"loss": LOSS}) is None
    assert logits_of((LOSS, (LOGITS,))) is None
    answers = QuestionAnsweringModelOutput(start_logits=LOGITS, end_logits=LOGITS + 1)
    assert torch.equal(logits_of(answers), torch.stack([LOGITS, LOGITS + 1], 1))


@pytest.mark.fault("T14")
@pytest.mark.parametrize("method", [RDrop(beta=2.0), TRADES(L2Ball(0.5), 0.2, 2, 3.0, 0.2)])
def test_an_own_loop_over_tuples_is_the_same_loop(method):
    found = []
    for return_dict in (True, False):
        model = tiny("bert", dropout=0.1)
        model.config.return_dict = return_dict
        torch.manual_seed(3)
        method.step(text_objective(model, batch("bert"), seed=1))
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def small(cls: type, **settings: int) -> nn.Module:
    config = BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **settings,
    )
    torch.manual_seed(0)
    return cls(config).double().train()


def log_softmax(logits: Tensor) -> Tensor:
    return logits - logits.logsumexp(-1, keepdim=True)


@pytest.mark.fault("T14")
@pytest.mark.parametrize("return_dict", [True, False])  # a tuple has no names for start and end
def test_question_answering_compares_two_distributions_over_the_tokens(return_dict):
    model = small(BertForQuestionAnswering, return_dict=return_dict)
    given = {
        "input_ids": torch.randint(4, 60, (2, 7)),
        "attention_mask": torch.ones(2, 7, dtype=torch.long),
        "start_positions": torch.tensor([1, 2]),
        "end_positions": torch.tensor([3, 2]),
    }
    objective = text_objective(model, given, seed=0)
    delta = 0.3 * torch.randn_like(objective.x)
    clean, moved = objective.forward(), objective.forward(delta)
    got = objective.divergence(clean, moved)
    kl = 0.0
    for which in range(2):  # as the loss, the mean of start and end
        p, q = (log_softmax(out.logits[:, which]) for out in (clean, moved))
        kl = kl + (p.exp() * (p - q)).sum(-1).mean() / 2
    assert float(got) == pytest.approx(float(kl), rel=1e-12)
    assert float(got) > 0


def test_token_classification_counts_labelled_tokens():
    model = small(BertForTokenClassification, num_labels=3)
    given = {
        "input_ids": torch.randint(4, 60, (2, 5)),
        "attention_mask": torch.ones(2, 5, dtype=torch.long),
        "labels": torch.tensor([[-100, 0, 1, 2, -100], [1, -100, -100, -100, -100]]),
    }
    objective = text_objective(model, given, seed=0)
    delta = 0.3 * torch.randn_like(objective.x)
    clean, moved = objective.forward(), objective.forward(delta)
    p, q = log_softmax(clean.logits), log_softmax(moved.logits)
    each = (p.exp() * (p - q)).sum(-1)
    want = (each[0, 1:4].mean() + each[1, 0]) / 2
    assert float(objective.divergence(clean, moved)) == pytest.approx(float(want), rel=1e-12)


class Draws:
    def __init__(self) -> None:
        self.numpy = np.random.default_rng(0)
        self.old = np.random.RandomState(1)
        self.python = random.Random(2)
        self.torch = torch.Generator().manual_seed(3)
        self.system = random.SystemRandom()  # has no state, and cannot be replayed
        self.name = "not a generator"

    def all(self) -> list[float]:
        return [
            float(self.numpy.random()),
            float(self.old.rand()),
            self.python.random(),
            float(torch.rand((), generator=self.torch)),
            float(np.random.rand()),
            random.random(),
            float(torch.rand(())),
        ]


@pytest.mark.fault("T12")
def test_every_source_of_random_numbers_is_replayed_and_moves_on_once():
    draws, reference = Draws(), Draws()
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    once = reference.all(), reference.all()
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    frozen = FrozenDropout(torch.device("cpu"), random_sources(draws))
    for _ in range(3):
        with frozen():
            assert draws.all() == once[0]
    assert draws.all() == once[1]


@pytest.mark.fault("T30")
def test_the_report_of_a_step_has_the_loss():
    model = tiny("bert")
    report = FreeLB(L2Ball(0.3), 0.1, 2).step(text_objective(model, batch("bert"), seed=0))
    assert report.loss.shape == ()
    assert not report.loss.requires_grad
