"""Texts packed in one row are trained as they are when each has a row of its own, in float64."""

import pytest
import torch
from models import VOCAB, assert_gradients, gradients, tiny
from torch import Tensor
from torch.nn.functional import cross_entropy

from nlp_adv.methods import FGM, PGD, TAVAT, FreeLB, Noise, Scaled
from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall, Memory, Output
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.layer import LayerSite
from nlp_adv.sites.objective import objective
from nlp_adv.sites.packing import texts_in

pytestmark = pytest.mark.fault("T10")

LENGTHS = (5, 2, 7, 4)
ENDS = torch.tensor(LENGTHS).cumsum(0)


def sentences() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(4, VOCAB, (length,), generator=generator) for length in LENGTHS]


def padded(texts: list[Tensor], width: int = max(LENGTHS)) -> dict[str, Tensor]:
    """Each in a row of its own."""
    rows = [torch.nn.functional.pad(text, (0, width - len(text))) for text in texts]
    ids = torch.stack(rows)
    mask = (torch.arange(width) < torch.tensor([len(text) for text in texts])[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def packed(texts: list[Tensor]) -> dict[str, Tensor]:
    """All in one row, as transformers' DataCollatorWithFlattening has them."""
    labels = [torch.cat([torch.tensor([-100]), text[1:]]) for text in texts]
    return {
        "input_ids": torch.cat(texts)[None],
        "labels": torch.cat(labels)[None],
        "position_ids": torch.cat([torch.arange(len(text)) for text in texts])[None],
    }


def two_rows(texts: list[Tensor]) -> dict[str, Tensor]:
    """Two texts a row, and padding behind those of the first one, at position 0."""
    first, second = packed(texts[:2]), packed(texts[2:])
    missing = second["input_ids"].shape[1] - first["input_ids"].shape[1]
    filled = {
        key: torch.nn.functional.pad(value, (0, missing), value=-100 if key == "labels" else 0)
        for key, value in first.items()
    }
    return {key: torch.cat([filled[key], second[key]]) for key in first}


WAYS = {
    "positions": packed,
    "bounds": lambda texts: packed(texts) | {"cu_seq_lens_q": bounds(), "max_length_q": 7},
    "numbers": lambda texts: packed(texts) | {"seq_idx": numbers()},
    "two-rows": two_rows,
}


def bounds() -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.long), ENDS]).int()


def numbers() -> Tensor:
    return torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))[None].int()


def language_model(attention: str = "eager"):
    """GPT-2, which keeps packed texts apart by their positions where it has no cache."""
    model = tiny("gpt2_lm", attention=attention)
    model.config.use_cache = False
    return model


def forward(model, batch) -> Output:
    """The loss in float64; transformers' own is float32."""
    known = ("input_ids", "attention_mask", "position_ids")
    logits = model(**{key: batch[key] for key in known if key in batch}).logits
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    return Output(loss, logits)


def of(batch, *, attention="eager", site=None, **options):
    options = {"seed": 0, "memory": Memory(), **options}
    return objective(language_model(attention), batch, site, forward=forward, **options)


def step(method, batch, **options):
    """∇θ, the loss, and the objective."""
    minibatch = of(batch, **options)
    report = method.step(minibatch)
    return gradients(minibatch.model), report.loss, minibatch


l2 = L2Ball(0.8)
METHODS = {
    "fgm": FGM(l2),
    "pgd": PGD(l2, step_size=0.4, steps=3, random_start=False),
    "pgd-linf": PGD(LInfBall(0.1), step_size=0.05, steps=3, random_start=False),
    "pgd-l1": PGD(L1Ball(0.8), step_size=0.4, steps=3, random_start=False),
    "pgd-token": PGD(L2Ball(0.3, "token"), step_size=0.2, steps=2, random_start=False),
    "freelb": FreeLB(l2, step_size=0.3, steps=3),
    "freelb-relative": Scaled(FreeLB(L2Ball(0.3), step_size=0.1, steps=3), unit="relative"),
    "freelb-coordinate": Scaled(FreeLB(L2Ball(0.1), 0.05, steps=3), unit="per_coordinate"),
    "tavat": TAVAT(L2Ball(0.2), step_size=0.3, steps=3),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_that_of_padded_rows(name, way):
    texts = sentences()
    want, loss, _ = step(METHODS[name], padded(texts))
    got, got_loss, _ = step(METHODS[name], WAYS[way](texts))
    torch.testing.assert_close(got_loss, loss, rtol=0, atol=1e-12)
    assert_gradients(got, want, atol=1e-12)


@pytest.mark.parametrize("site", [EmbeddingSite, lambda: LayerSite("transformer.h.0")])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_on_a_layer_and_with_other_attention_too(attention, site):
    texts, options = sentences(), {"attention": attention}
    want, *_ = step(METHODS["freelb"], padded(texts), site=site(), **options)
    got, *_ = step(METHODS["freelb"], packed(texts), site=site(), **options)
    assert_gradients(got, want, atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ball", [l2, LInfBall(0.1), L1Ball(0.8)], ids=["l2", "linf", "l1"])
def test_a_random_start_is_in_the_ball_of_each_text(way, ball):
    minibatch = of(WAYS[way](sentences()))
    within, mask = minibatch.within(ball), minibatch.mask
    delta, real = within.sample(mask, minibatch.generator), mask[..., 0] > 0
    norms = within.norm(delta).expand_as(mask)[..., 0]
    assert len(set(norms[real].tolist())) == len(LENGTHS)
    assert ((norms[real] > 0) & (norms[real] <= ball.epsilon)).all()
    assert not delta[~real].any()
    far = within.project(100 * delta)
    torch.testing.assert_close(
        within.norm(far).expand_as(mask)[..., 0][real],
        torch.full((sum(LENGTHS),), ball.epsilon, dtype=torch.float64),
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_comparison_of_outputs_is_the_mean_over_the_texts(symmetric):
    texts, found = sentences(), []
    for batch in (padded(texts), *(way(texts) for way in WAYS.values())):
        minibatch = of(batch)
        noise = torch.randn(sum(LENGTHS), 16, generator=torch.Generator().manual_seed(4)).double()
        delta = torch.zeros_like(minibatch.mask)
        delta[minibatch.mask[..., 0] > 0] = noise  # of each token, whatever row it lies in
        pair = minibatch.forward(), minibatch.forward(delta)
        found.append(minibatch.divergence(*pair, symmetric=symmetric))
    for value in found[1:]:
        torch.testing.assert_close(value, found[0], rtol=0, atol=1e-12)


def test_a_text_is_remembered_under_one_name_whatever_row_it_comes_in():
    texts = sentences()
    method = FreeLB(l2, step_size=0.3, steps=2, init_magnitude=0.3, reuse=True)
    memory = Memory()
    _, _, first = step(method, padded(texts), memory=memory)
    _, _, second = step(method, packed(texts[::-1]), memory=memory)
    assert sorted(first.example_names()) == sorted(second.example_names())
    assert len(memory.tensors) == 2 * len(LENGTHS)
    again = Memory()
    again.tensors = {key: value.clone() for key, value in memory.tensors.items()}
    want, *_ = step(method, padded(texts), memory=memory)  # both from what was kept
    got, *_ = step(method, packed(texts), memory=again)
    assert_gradients(got, want, atol=1e-12)


def test_noise_moves_every_text():
    texts = sentences()
    _, _, minibatch = step(Noise(l2), packed(texts))
    lengths = [part.norm() for part in minibatch.delta[0].split(list(LENGTHS))]
    assert all(0 < length <= 0.8 for length in lengths)


# --- where a text begins


def ids(rows: int, width: int) -> Tensor:
    return torch.ones(rows, width, dtype=torch.long)


def test_ordinary_positions_are_one_text():
    positions = torch.arange(6).expand(2, 6)
    assert texts_in(ids(2, 6), None, [{"position_ids": positions}]) is None
    assert texts_in(ids(2, 6), None, [{"position_ids": None}, {}]) is None


def test_padding_in_front_of_a_text_begins_none():
    """Positions made of the attention mask, as generation makes them: 1 for padding in front."""
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    assert texts_in(ids(2, 5), mask != 0, [{"position_ids": positions}]) is None


def test_positions_of_roberta_behind_a_text_begin_none():
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    positions = mask.cumsum(1) * mask + 1  # padding stands at its own position, 1
    assert texts_in(ids(2, 5), mask != 0, [{"position_ids": positions}]) is None


def test_padding_that_fills_up_a_packed_row_is_not_real():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 0]])
    row = torch.tensor([[5, 6, 7, 8, 9, 0, 0]])
    real, texts = texts_in(row, None, [{"position_ids": positions}], pad_id=0)
    assert real.tolist() == [[True] * 5 + [False] * 2]
    assert texts.index[0, :5].tolist() == [0, 0, 0, 1, 1]
    assert texts.count == 2


def test_a_pad_id_inside_a_packed_text_is_real():
    """Where it is the end of a sentence too, as in many decoders."""
    positions = torch.tensor([[0, 1, 2, 0, 1]])
    row = torch.tensor([[5, 6, 0, 8, 0]])
    real, _ = texts_in(row, None, [{"position_ids": positions}], pad_id=0)
    assert real.all()


def test_the_innermost_call_tells():
    outer = torch.tensor([[0, 1, 2, 3]])
    inner = torch.tensor([[0, 1, 0, 1]])
    _, texts = texts_in(ids(1, 4), None, [{"position_ids": inner}, {"position_ids": outer}])
    assert texts.index.tolist() == [[0, 0, 1, 1]]
