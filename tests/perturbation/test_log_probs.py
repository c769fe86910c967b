"""Log-probabilities of completions, beside a log-softmax of everything."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nlp_adv.perturbation import completions

ROWS, TOKENS, WORDS = 5, 9, 23


def made(dtype=torch.float64, scale=2.0, words=WORDS):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(ROWS, TOKENS, words, generator=generator, dtype=torch.float64)
    labels = torch.randint(words, (ROWS, TOKENS), generator=generator)
    begins = torch.tensor([0, 1, 4, 8, 9])[:, None]  # the last row has no completion
    labels = labels.masked_fill(torch.arange(TOKENS) < begins, -100)
    labels[2, 7:] = -100
    return logits.to(dtype).requires_grad_(), labels


def naive(logits, labels):
    """By the whole softmax: (log p, log(1 − p), counted), each (R, T)."""
    counted = (labels != -100) & (torch.arange(TOKENS) > 0)
    logp = logits[:, :-1].log_softmax(-1)
    picked = logp.gather(-1, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
    rest = (1 - picked.exp()).log()
    zero = torch.zeros(ROWS, 1, dtype=logits.dtype)
    return *(torch.cat([zero, one], 1) * counted for one in (picked, rest)), counted


def measures(logp, rest, counted):
    """The three losses of a row, written out."""
    tokens = counted.sum(1).clamp(min=1)
    kept = torch.where(logp < -3.0, torch.zeros_like(rest), rest)
    return logp.sum(1), -logp.sum(1) / tokens, -kept.sum(1) / tokens


@pytest.mark.parametrize("chunk", [1, 4, 7, 1000])
def test_values_and_gradients_are_those_of_the_whole_softmax(chunk):
    logits, labels = made()
    found = completions(logits, labels, chunk=chunk)
    want = naive(logits, labels)
    assert torch.equal(found.labelled, want[2])
    assert found.tokens.tolist() == [8, 8, 3, 1, 0]
    torch.testing.assert_close(found.logp, want[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(found.rest, want[1], rtol=0, atol=1e-12)
    got = found.log_prob(), found.cross_entropy(), found.log1mp(3.0)
    weights = torch.arange(1.0, ROWS + 1, dtype=torch.float64)
    for mine, other in zip(got, measures(*want), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)
        (one,) = torch.autograd.grad((weights * mine).sum(), logits, retain_graph=True)
        (two,) = torch.autograd.grad((weights * other).sum(), logits, retain_graph=True)
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
        assert one.abs().max() > 1e-3


def test_some_rows_are_those_rows():
    logits, labels = made()
    found = completions(logits, labels)
    kept = torch.tensor([3, 1])
    alone = completions(logits[kept], labels[kept])
    for rows in (kept, slice(1, 4, 2)):
        assert sorted(found[rows].log_prob().tolist()) == sorted(alone.log_prob().tolist())


def test_a_certain_token_has_a_finite_loss_and_gradient():
    """p rounds to 1, and log(1 − p) of it would be −inf; the gradient by the logits is −p."""
    logits = torch.zeros(1, 2, 4)
    logits[0, 0, 1] = 60.0
    logits.requires_grad_()
    found = completions(logits, torch.tensor([[-100, 1]]))
    assert found.logp[0, 1] == 0
    loss = found.log1mp(5.0).sum()
    torch.testing.assert_close(loss, torch.tensor(60.0 - torch.log(torch.tensor(3.0)).item()))
    loss.backward()
    want = torch.tensor([-1 / 3, 1.0, -1 / 3, -1 / 3])
    torch.testing.assert_close(logits.grad[0, 0], want)


def test_a_token_below_the_threshold_is_left_alone():
    logits, labels = made(scale=6.0)
    found = completions(logits, labels)
    low = found.labelled & (found.logp < -5.0)
    assert low.any()
    (grad,) = torch.autograd.grad(found.log1mp(5.0).sum(), logits)
    assert (grad[:, :-1][low[:, 1:]] == 0).all()
    assert (grad[:, :-1][(found.labelled & ~low)[:, 1:]] != 0).any(-1).all()


class Largest(TorchDispatchMode):
    """The most numbers that one new tensor of floats has."""

    def __init__(self):
        super().__init__()
        self.numbers = []

    def sizes(self):
        return [numbers for numbers, _ in self.numbers]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {one.untyped_storage().data_ptr() for one in args if isinstance(one, torch.Tensor)}
        for one in result if isinstance(result, tuple | list) else (result,):
            new = isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() not in given
            if new and one.is_floating_point():
                self.numbers.append((one.numel(), one.dtype))
        return result


def test_no_tensor_is_as_large_as_the_logits_but_their_own_gradient():
    words, chunk = 4000, 3
    logits, labels = made(torch.bfloat16, words=words)
    with Largest() as forward:
        loss = completions(logits, labels, chunk=chunk).log1mp(50.0).sum()
    assert max(forward.sizes()) == chunk * words
    with Largest() as backward:
        loss.backward()
    whole = [dtype for numbers, dtype in backward.numbers if numbers > chunk * words]
    assert whole == [torch.bfloat16]  # the gradient
    with Largest() as plain:
        logits.float().log_softmax(-1)
    assert max(plain.sizes()) == ROWS * TOKENS * words


def test_halves_are_computed_in_float32():
    logits, labels = made(torch.bfloat16)
    found = completions(logits, labels)
    want = naive(logits.detach().float(), labels)
    torch.testing.assert_close(found.logp, want[0])
    assert found.logp.dtype == torch.float32
    found.log_prob().sum().backward()
    assert logits.grad.dtype == torch.bfloat16
