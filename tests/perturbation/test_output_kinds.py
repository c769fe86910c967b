"""What logits hold and where: by the problem type, else by the rule of transformers' own losses."""

from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from models import batch, tiny
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, kl_div, mse_loss
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from nlp_adv.perturbation import Output, divergence, kind_of, mean_over_examples
from nlp_adv.sites.objective import image_objective, text_objective


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax_kl(p: Tensor, q: Tensor, dim: int) -> Tensor:
    p, q = p.log_softmax(dim), q.log_softmax(dim)
    return kl_div(q, p, log_target=True, reduction="none").sum(dim)


def model_with(**config) -> nn.Module:
    model = nn.Module()
    model.config = SimpleNamespace(**config)
    return model


# --- T9: what they hold

LABELS = {
    "soft": torch.softmax(draws(4, 3), -1),
    "multi-hot": (draws(4, 3) > 0).double(),
    "index": torch.tensor([0, 2, 1, 1]),
    "none": None,
}
PROBLEMS = {
    "single_label_classification": "classes",
    "multi_label_classification": "labels",
    "regression": "scores",
}


@pytest.mark.fault("T9")
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("classes", [1, 3])
def test_the_problem_type_decides(problem, labels, classes):
    model = model_with(problem_type=problem, num_labels=classes)
    assert kind_of(model, draws(4, classes), LABELS[labels]).outputs == PROBLEMS[problem]


@pytest.mark.fault("T9")
@pytest.mark.parametrize("dtype", [torch.long, torch.int, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [1, 3])
def test_without_one_it_is_the_rule_of_transformers(dtype, classes):
    """Which writes its decision into the configuration."""
    labels = torch.zeros(4, dtype=dtype)
    if dtype.is_floating_point and classes > 1:
        labels = torch.zeros(4, classes, dtype=dtype)
    config = SimpleNamespace(problem_type=None, num_labels=classes)
    logits = draws(4, classes).to(dtype if dtype.is_floating_point else torch.float64)
    found = kind_of(model_with(problem_type=None, num_labels=classes), logits, labels).outputs
    if not (classes == 1 and not dtype.is_floating_point):
        with suppress(RuntimeError):  # torch's cross-entropy takes no int32, after the decision
            ForSequenceClassificationLoss(labels, logits, config)
        assert found == PROBLEMS[config.problem_type]


def soft_batch() -> dict[str, Tensor]:
    full = batch("bert")
    soft = torch.softmax(2 * draws(3, 3), -1)
    return full | {"labels": soft}


@pytest.mark.fault("T9")
@pytest.mark.parametrize("problem", [None, *PROBLEMS])
def test_soft_labels_of_a_model_are_compared_as_its_loss_takes_them(problem):
    full = soft_batch()
    model = hf.BertForSequenceClassification(
        hf.BertConfig(
            vocab_size=60,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            num_labels=3,
            problem_type=problem,
        )
    ).double()

    def forward(model, inputs):  # a soft cross-entropy of the user's own
        labels = inputs.pop("labels")
        logits = model(**inputs).logits
        return Output(-(labels * logits.log_softmax(-1)).sum(-1).mean(), logits)

    p, q = draws(3, 3, seed=1), draws(3, 3, seed=2)
    objective = text_objective(model, full, forward=forward, seed=0)
    got = objective.divergence(Output(p.sum(), p), Output(q.sum(), q))
    want = {
        "single_label_classification": softmax_kl(p, q, -1).mean(),
        "regression": mse_loss(p, q),
    }
    on = binary_cross_entropy_with_logits(q, p.sigmoid(), reduction="none").sum(-1)
    entropy = binary_cross_entropy_with_logits(p, p.sigmoid(), reduction="none").sum(-1)
    torch.testing.assert_close(got, want.get(problem, (on - entropy).mean()))


@pytest.mark.fault("T9")
@pytest.mark.parametrize(("problem", "kind"), PROBLEMS.items())
def test_images_have_problem_types_as_well(problem, kind):
    config = hf.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        num_labels=3,
        problem_type=problem,
    )
    labels = torch.tensor([0, 2]) if kind == "classes" else torch.rand(2, 3)
    images = {"pixel_values": torch.rand(2, 3, 8, 8), "labels": labels}
    model = hf.ViTForImageClassification(config)
    objective = image_objective(model, images, mean=torch.zeros(3), std=torch.ones(3), seed=0)
    p, q = draws(2, 3, seed=1), draws(2, 3, seed=2)
    got = objective.divergence(Output(p.sum(), p), Output(q.sum(), q))
    torch.testing.assert_close(got, divergence(p, q, kind).mean())


# --- T17: in which dimension


@pytest.mark.fault("T17")
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 4, 5), (2, 8, 3, 3), (2, 3, 2, 4, 4)])
def test_classes_of_pixels_are_in_the_second_dimension(shape):
    p, q = draws(*shape), draws(*shape, seed=1)
    got = divergence(p, q, "classes")
    torch.testing.assert_close(got, softmax_kl(p, q, 1))
    assert got.shape == shape[:1] + shape[2:]


@pytest.mark.fault("T17")
@pytest.mark.parametrize(
    ("shape", "labels", "classes", "tokens", "dim"),
    [
        ((2, 3, 8, 8), (2, 8, 8), 3, None, 1),  # segmentation
        ((2, 3, 8, 8), (2, 32, 32), 3, None, 1),  # labels on a finer grid
        ((2, 8, 8, 3), (2, 8, 8), 3, None, 3),  # channels last
        ((2, 8, 8, 3), None, 3, None, 3),
        ((2, 3, 3, 3), (2, 3, 3), 3, None, 1),  # nothing tells
        ((2, 3, 8, 8), None, None, None, 1),
        ((2, 7, 3), (2, 7), 3, 7, 2),  # tokens
        ((2, 3, 7), (2, 7), 3, 7, 1),  # tokens, classes first
        ((2, 3, 7), None, 3, 7, 1),
        ((2, 7, 3), None, 3, 7, 2),
        ((2, 3, 3), (2, 3), 3, 3, 2),  # nothing tells
        ((2, 2, 50), (2, 2), 2, 2, 2),  # a language model's words
        ((2, 2, 50), None, 2, 2, 2),
        ((2, 2, 7), None, 2, None, 2),  # start and end of an answer
        ((2, 3), (2,), 3, 7, 1),
        ((2, 7), (2,), 3, 3, 1),
    ],
)
def test_the_dimension_is_the_one_that_labels_lack(shape, labels, classes, tokens, dim):
    given = None if labels is None else torch.zeros(labels, dtype=torch.long)
    model = model_with(num_labels=classes, problem_type=None)
    assert kind_of(model, draws(*shape), given, tokens=tokens) == ("classes", dim)


class BagForQuestionAnswering(nn.Module):
    config = SimpleNamespace(num_labels=2, problem_type=None)


@pytest.mark.fault("T17")
def test_spans_are_two_distributions_over_the_tokens():
    assert kind_of(BagForQuestionAnswering(), draws(2, 2, 7), None, tokens=7) == ("classes", 2)


def segformer() -> nn.Module:
    config = hf.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        num_attention_heads=[1, 2],
        patch_sizes=[7, 3],
        strides=[4, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        num_labels=5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return hf.SegformerForSemanticSegmentation(config).eval()


@pytest.mark.fault("T17")
def test_a_segmentation_model_and_the_pixels_without_a_class():
    labels = torch.randint(0, 5, (2, 32, 32), generator=torch.Generator().manual_seed(0))
    labels[0, :16] = 255  # the model's own sign for a pixel that has none
    images = {"pixel_values": torch.rand(2, 3, 32, 32), "labels": labels}
    model = segformer()
    objective = image_objective(model, images, mean=torch.zeros(3), std=torch.ones(3), seed=0)
    clean = objective.forward().detached()
    moved = objective.forward(torch.full_like(objective.mask, 0.1)).detached()
    assert clean.logits.shape == (2, 5, 8, 8)
    values = softmax_kl(clean.logits, moved.logits, 1)
    want = torch.stack([values[0, 4:].mean(), values[1].mean()]).mean()
    torch.testing.assert_close(objective.divergence(clean, moved), want)


@pytest.mark.fault("T17")
def test_tokens_with_classes_first_leave_out_padding():
    """A head that ends in a 1-d convolution."""
    full = batch("bert")
    full["labels"] = (full["input_ids"] % 3).masked_fill(full["attention_mask"] == 0, -100)
    objective = text_objective(tiny("bert"), full, seed=0)
    tokens = full["input_ids"].shape[1]
    p, q = draws(3, 2, tokens), draws(3, 2, tokens, seed=1)
    counted = full["attention_mask"] == 1
    want = mean_over_examples(softmax_kl(p, q, 1), counted)
    torch.testing.assert_close(objective.divergence(Output(p.sum(), p), Output(q.sum(), q)), want)


@pytest.mark.fault("T17")
def test_pairs_of_tokens_leave_out_padding():
    """Yes-or-no labels of spans, (B, kinds, T, T): a pair counts where both its tokens do."""
    full = batch("bert")
    tokens = full["input_ids"].shape[1]
    full["labels"] = torch.zeros(3, 2, tokens, tokens)
    objective = text_objective(tiny("bert"), full, seed=0)
    p, q = draws(3, 2, tokens, tokens), draws(3, 2, tokens, tokens, seed=1)
    each = divergence(p.movedim(1, -1).reshape(-1, 2), q.movedim(1, -1).reshape(-1, 2), "labels")
    each = each.view(3, tokens, tokens)
    lengths = full["attention_mask"].sum(1).tolist()
    want = sum(each[row, :n, :n].mean() for row, n in enumerate(lengths)) / 3
    torch.testing.assert_close(objective.divergence(Output(p.sum(), p), Output(q.sum(), q)), want)
