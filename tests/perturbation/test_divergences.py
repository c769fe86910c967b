"""Divergences: against torch's own, at their minimum, at extreme logits, and how they average."""

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, kl_divergence

from nlp_adv.perturbation import divergence, mean_over_examples

KINDS = ["classes", "labels", "scores"]

each_kind = pytest.mark.parametrize("kind", KINDS)
each_direction = pytest.mark.parametrize("symmetric", [False, True], ids=["one-way", "both-ways"])


def logits(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.clone().requires_grad_() for tensor in tensors]


def by_distributions(p: Tensor, q: Tensor, kind: str) -> Tensor:
    if kind == "classes":
        return kl_divergence(Categorical(logits=p), Categorical(logits=q))
    return kl_divergence(Bernoulli(logits=p), Bernoulli(logits=q)).sum(-1)


@pytest.mark.parametrize("kind", ["classes", "labels"])
@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3)], ids=["sentences", "tokens"])
@each_direction
def test_it_is_the_divergence_of_torchs_distributions(kind, shape, symmetric):
    """Value, and gradient through both outputs."""
    found = []
    for between in (
        lambda p, q: divergence(p, q, kind, symmetric=symmetric),
        lambda p, q: (
            by_distributions(p, q, kind) + (by_distributions(q, p, kind) if symmetric else 0)
        ),
    ):
        p, q = leaves(logits(*shape, seed=0), logits(*shape, seed=1))
        values = between(p, q)
        values.square().sum().backward()
        found.append((values.detach(), p.grad, q.grad))
    assert found[0][0].shape == shape[:-1]
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


def test_kl_is_torchs_kl_div():
    p, q = logits(4, 3, seed=0), logits(4, 3, seed=1)
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    want = nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(divergence(p, q, "classes"), want)
    assert not torch.allclose(divergence(p, q, "classes"), divergence(q, p, "classes"))


@each_direction
def test_scores_are_compared_by_the_squared_difference_once(symmetric):
    p, q = logits(4, 2, seed=0), logits(4, 2, seed=1)
    got = divergence(p, q, "scores", symmetric=symmetric)
    torch.testing.assert_close(got, (p - q).square().mean(-1))
    one = divergence(p[:, :1], q[:, :1], "scores", symmetric=symmetric)
    torch.testing.assert_close(one, (p - q)[:, 0].square())


@each_kind
def test_both_ways_is_symmetric(kind):
    p, q = logits(4, 3, seed=0), logits(4, 3, seed=1)
    there = divergence(p, q, kind, symmetric=True)
    torch.testing.assert_close(there, divergence(q, p, kind, symmetric=True))


@each_kind
@each_direction
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_equal_outputs_are_at_the_minimum(kind, symmetric, scale):
    p, q = leaves(logits(4, 3, scale=scale), logits(4, 3, scale=scale))
    values = divergence(p, q, kind, symmetric=symmetric)
    assert (values == 0).all()
    values.sum().backward()
    for leaf in (p, q):
        torch.testing.assert_close(leaf.grad, torch.zeros_like(leaf), rtol=0, atol=1e-14)


@each_kind
@each_direction
def test_unequal_outputs_are_apart(kind, symmetric):
    p = logits(4, 3)
    assert (divergence(p, p + 0.1 * logits(4, 3, seed=2), kind, symmetric=symmetric) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e2, 1e4, 6e4])
@each_kind
@each_direction
def test_extreme_logits_stay_finite(kind, symmetric, size, dtype):
    p = torch.tensor([[size, -size, 0.0], [-size, size, size], [0.0, 0.0, 0.0]], dtype=dtype)
    p, q = leaves(p, p.flip(1))
    values = divergence(p, q, kind, symmetric=symmetric)
    assert torch.isfinite(values).all()
    assert (values >= 0).all()
    values.sum().backward()
    if kind != "scores" or dtype != torch.float16:  # whose gradient is 2·size, too large for half
        assert torch.isfinite(p.grad).all()
        assert torch.isfinite(q.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each_kind
def test_half_precision_logits_are_compared_in_float32(kind, dtype):
    p, q = logits(4, 3, seed=0).to(dtype), logits(4, 3, seed=1).to(dtype)
    got = divergence(p, q, kind, symmetric=True)
    assert got.dtype == torch.float32
    assert torch.equal(got, divergence(p.float(), q.float(), kind, symmetric=True))


def test_adding_a_constant_to_all_classes_changes_nothing():
    p, q = logits(4, 3, seed=0), logits(4, 3, seed=1)
    want = divergence(p, q, "classes")
    torch.testing.assert_close(divergence(p + 5, q - 7, "classes"), want)


# --- the mean


def test_it_is_the_mean_over_examples():
    values = logits(5).square()
    torch.testing.assert_close(mean_over_examples(values), values.mean())


@pytest.mark.parametrize("counting", [True, False])
def test_a_batch_twice_over_weighs_the_same(counting):
    values, counted = logits(3, 4).square(), torch.tensor([4, 2, 1])[:, None] > torch.arange(4)
    counted = counted if counting else None
    twice = None if counted is None else counted.repeat(2, 1)
    want = mean_over_examples(values, counted)
    torch.testing.assert_close(mean_over_examples(values.repeat(2, 1), twice), want)
    torch.testing.assert_close(mean_over_examples(values[:, 0].repeat(2)), values[:, 0].mean())


def test_an_examples_tokens_are_averaged_over_those_that_count():
    values = logits(3, 4).square()
    counted = torch.tensor([4, 2, 1])[:, None] > torch.arange(4)
    want = sum(row[:n].mean() for row, n in zip(values, (4, 2, 1), strict=True)) / 3
    torch.testing.assert_close(mean_over_examples(values, counted), want)
    torch.testing.assert_close(mean_over_examples(values), values.mean())


def test_more_padding_changes_nothing():
    values = logits(3, 4).square()
    counted = torch.tensor([4, 2, 1])[:, None] > torch.arange(4)
    padded = torch.cat([values, 100 + logits(3, 2)], dim=1)
    got = mean_over_examples(padded, nn.functional.pad(counted, (0, 2)))
    torch.testing.assert_close(got, mean_over_examples(values, counted))


def test_only_counted_tokens_have_a_gradient():
    (values,) = leaves(logits(3, 4))
    counted = torch.tensor([4, 2, 0])[:, None] > torch.arange(4)
    mean_over_examples(values, counted).backward()
    want = counted / torch.tensor([[4.0], [2.0], [1.0]], dtype=torch.float64) / 3
    torch.testing.assert_close(values.grad, want)


def test_an_example_without_counted_tokens_weighs_nothing():
    values = logits(3, 4).square()
    counted = torch.zeros(3, 4, dtype=torch.bool)
    assert mean_over_examples(values, counted) == 0
    counted[0, :2] = True
    torch.testing.assert_close(mean_over_examples(values, counted), values[0, :2].mean() / 3)
