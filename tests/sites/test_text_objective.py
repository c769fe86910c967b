"""The text objective: δ in the shape, the mask and the orientation that each model needs."""

import contextlib
import copy

import pytest
import torch
import transformers
from models import ARCHITECTURES, LENGTHS, TOKENS, VOCAB, batch, example, gradients, pad_id, tiny
from torch import Tensor, nn

from nlp_adv.errors import UserError
from nlp_adv.perturbation import Output, StepError, full_pass
from nlp_adv.sites.embeddings import EmbeddingTap, find_embedding
from nlp_adv.sites.objective import text_objective

each_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def noise(like: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)


def lengths(name: str) -> list[int]:
    if name == "bert_choice":  # sentence i and sentence −i, flattened
        return [length for pair in zip(LENGTHS, LENGTHS[::-1], strict=True) for length in pair]
    return list(LENGTHS)


# --- x and mask


@each_architecture
def test_x_is_the_clean_word_embedding_with_the_batch_first(name):
    model, full = tiny(name), batch(name)
    objective = text_objective(model, full, seed=0)
    ids = full["input_ids"].flatten(0, -2)
    table = find_embedding(model).weight
    assert objective.x.shape[0] == len(lengths(name))
    torch.testing.assert_close(objective.x[:, : ids.shape[1]], table.detach()[ids])
    assert not objective.x.requires_grad
    assert objective.table is table


@each_architecture
def test_the_mask_is_one_on_real_tokens_and_zero_on_padding(name):
    objective = text_objective(tiny(name), batch(name), seed=0)
    assert objective.mask.shape == objective.x.shape
    for row, length in zip(objective.mask, lengths(name), strict=True):
        assert (row[:length] == 1).all()
        assert (row[length:] == 0).all()


def test_albert_and_electra_are_perturbed_before_their_projection():
    for name in ("albert", "electra"):
        assert text_objective(tiny(name), batch(name), seed=0).x.shape == (3, TOKENS, 8)


@pytest.mark.parametrize("name", ["bert", "roberta", "xlnet", "bert_choice"])
def test_special_tokens_stay_where_they_are_when_asked(name):
    full = batch(name)
    special = full["input_ids"].flatten()[[0, 1]].tolist()
    objective = text_objective(tiny(name), full, seed=0, special_ids=special)
    ids, attention = (full[key].flatten(0, -2) for key in ("input_ids", "attention_mask"))
    want = (attention == 1) & (ids != special[0]) & (ids != special[1])
    assert 0 < want.sum() < attention.sum() - 1
    assert torch.equal(objective.mask[..., 0] == 1, want)


@pytest.mark.parametrize("name", ["bert", "roberta", "t5_token", "xlnet"])
def test_without_an_attention_mask_padding_is_known_by_its_id(name):
    model, full = tiny(name), batch(name)
    model.config.pad_token_id = pad_id(name)
    del full["attention_mask"]
    objective = text_objective(model, full, seed=0)
    assert objective.mask[..., 0].sum(1).tolist() == list(LENGTHS)


def test_without_mask_and_padding_id_every_token_is_real():
    model, full = tiny("bert"), batch("bert")
    model.config.pad_token_id = None
    del full["attention_mask"]
    assert (text_objective(model, full, seed=0).mask == 1).all()


@pytest.mark.parametrize("shape", [(3, 7, 7), (3, 9), (2, 7)], ids=str)
def test_an_attention_mask_that_does_not_fit_is_refused(shape):
    def forward(model, inputs):
        out = model(input_ids=inputs["input_ids"], labels=inputs["labels"])
        return Output(out.loss, out.logits)

    full = batch("bert") | {"attention_mask": torch.ones(shape)}
    with pytest.raises(UserError, match="does not fit"):
        text_objective(tiny("bert"), full, forward=forward, seed=0)


def test_delta_lives_in_float32_where_the_model_is_narrower():
    model = tiny("bert").bfloat16()
    objective = text_objective(model, batch("bert"), seed=0)
    assert objective.x.dtype == torch.bfloat16
    assert objective.mask.dtype == torch.float32
    assert objective.gradient(torch.zeros_like(objective.mask)).dtype == torch.float32


# --- what δ does


@each_architecture
def test_a_zero_delta_changes_no_bit_of_the_output(name):
    model = tiny(name, dropout=0.1)
    torch.manual_seed(0)
    want = model(**batch(name))
    torch.manual_seed(0)
    objective = text_objective(model, batch(name), seed=0)
    for delta in (None, torch.zeros_like(objective.mask)):
        got = objective.forward(delta)
        assert torch.equal(got.loss, want.loss)
        assert torch.equal(got.logits, want.logits)


@each_architecture
def test_the_hook_fires_once_a_pass(name):
    model, fired = tiny(name), []
    objective = text_objective(model, batch(name), seed=0)
    find_embedding(model).register_forward_hook(lambda *_: fired.append(1))
    for passes in (1, 2):
        objective.gradient(noise(objective.mask))
        assert len(fired) == passes


@each_architecture
def test_delta_on_an_example_changes_the_logits_of_that_example_only(name):
    model = tiny(name)
    objective = text_objective(model, batch(name), seed=0)
    rows = objective.x.shape[0]
    clean = objective.forward().logits.reshape(rows, -1)
    for row in range(rows):
        delta = torch.zeros_like(objective.mask)
        delta[row] = noise(delta[row])
        moved = objective.forward(delta).logits.reshape(rows, -1)
        # Batched products may round differently where other rows changed.
        changed = (moved - clean).abs().amax(1) > 1e-12
        assert changed.tolist() == [other == row for other in range(rows)]


@each_architecture
def test_the_gradient_is_the_directional_derivative(name):
    objective = text_objective(tiny(name), batch(name), seed=0)
    point, direction = (noise(objective.mask, seed) * objective.mask for seed in (0, 1))
    direction = direction / direction.norm()
    grad, h = objective.gradient(point), 1e-3  # some models take a softmax in float32
    ahead, behind = (objective.forward(point + s * h * direction).loss.detach() for s in (1, -1))
    slope = (grad * direction).sum()
    assert slope.abs() > 2e-3
    measured = (ahead - behind).double() / (2 * h)
    torch.testing.assert_close(measured, slope, rtol=0, atol=2e-4)
    assert (grad[objective.mask == 0] == 0).all()


def test_delta_on_padding_changes_nothing():
    objective = text_objective(tiny("bert"), batch("bert"), seed=0)
    on_padding = noise(objective.mask) * (1 - objective.mask)
    assert on_padding.any()
    assert torch.equal(objective.forward(on_padding).loss, objective.forward().loss)


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n != "xlnet"])
def test_more_padding_changes_nothing(name):
    """XLNet is left out: it pools the last column, so padding on the right is not neutral there."""
    found = []
    for padding in (0, 2):
        model = tiny(name)
        full = batch(name, padding=padding)
        if name == "t5":  # the decoder's side has no padding of its own
            full["labels"] = batch(name)["labels"]
        objective = text_objective(model, full, seed=0)
        delta = torch.zeros_like(objective.mask)
        delta[:, :TOKENS] = noise(delta[:, :TOKENS].contiguous())
        delta = delta * objective.mask
        report = full_pass(objective, delta)
        found.append((report.loss, report.grad[:, :TOKENS], gradients(model)))
        assert (report.grad[:, TOKENS:] == 0).all()
    (loss, grad, theta), (padded_loss, padded_grad, padded_theta) = found
    torch.testing.assert_close(padded_loss, loss)
    torch.testing.assert_close(padded_grad, grad)
    # Rotary embeddings and their norms are float32 in any model, and their rounding depends on the
    # shape on some processors.
    atol = 1e-6 if name in ("llama", "modernbert") else 1e-10
    for key, value in theta.items():
        torch.testing.assert_close(padded_theta[key], value, rtol=1e-7, atol=atol)


# --- XLNet runs its batch in the second dimension


def xlnet_batch(rows: int, tokens: int, ids: Tensor | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    if ids is None:
        ids = torch.randint(6, VOCAB, (rows, tokens), generator=generator)
    attention = torch.ones_like(ids)
    attention[0, :1] = 0  # XLNet pads on the left
    return {"input_ids": ids, "attention_mask": attention, "labels": torch.arange(rows) % 2}


SYMMETRIC = torch.tensor([[6, 7, 8], [7, 9, 10], [8, 10, 11]])


@pytest.mark.parametrize(
    "full",
    [xlnet_batch(2, 5), xlnet_batch(1, 4), xlnet_batch(4, 4), xlnet_batch(3, 3, SYMMETRIC)],
    ids=["wide", "one", "square", "symmetric"],
)
def test_xlnet_batches_of_any_shape_are_turned(full):
    objective = text_objective(tiny("xlnet"), full, seed=0)
    assert torch.equal(objective.mask[..., 0], full["attention_mask"].double())
    rows = len(full["labels"])
    clean = objective.forward().logits
    for row in range(rows):
        delta = torch.zeros_like(objective.mask)
        delta[row] = noise(delta[row])
        changed = (objective.forward(delta).logits - clean).abs().amax(1) > 1e-12
        assert changed.tolist() == [other == row for other in range(rows)]


# --- nothing left behind


def state(model: nn.Module) -> list[object]:
    kinds = ["_forward_hooks", "_forward_pre_hooks", "_backward_hooks"]
    hooks = [len(getattr(m, kind)) for m in model.modules() for kind in kinds]
    flags = [m.training for m in model.modules()] + [p.requires_grad for p in model.parameters()]
    return hooks + flags


@pytest.mark.parametrize("permanent", [False, True])
def test_no_hook_batch_entry_or_random_draw_is_left(permanent):
    model, full = tiny("bert", dropout=0.1), batch("bert")
    tap = EmbeddingTap(find_embedding(model))
    if permanent:
        tap.install()
    before, keys, stream = state(model), dict(full), torch.get_rng_state()
    objective = text_objective(model, full, tap=tap, seed=0)
    assert torch.equal(torch.get_rng_state(), stream)
    objective.gradient(noise(objective.mask))
    full_pass(objective, noise(objective.mask))
    assert state(model) == before
    assert full.keys() == keys.keys()
    assert all(full[key] is keys[key] for key in keys)


def test_a_forward_that_takes_the_batch_apart_gets_a_whole_one_each_time():
    model = tiny("bert")

    def forward(model, inputs):
        labels = inputs.pop("labels")
        logits = model(**inputs).logits
        return Output(nn.functional.cross_entropy(logits, labels), logits)

    objective = text_objective(model, batch("bert"), forward=forward, seed=0)
    losses = [objective.forward().loss for _ in range(3)]
    assert losses[0] == losses[1] == losses[2] == model(**batch("bert")).loss


def test_looking_for_the_embedding_draws_no_random_number():
    """Nor does a forward that draws before it: it is taken back."""
    model = tiny("bert")

    def forward(model, inputs):
        torch.rand(3)
        out = model(**inputs)
        return Output(out.loss, out.logits)

    stream = torch.get_rng_state()
    text_objective(model, batch("bert"), forward=forward, seed=0)
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_the_random_stream_is_as_before_when_the_embedding_does_not_run(name):
    model, elsewhere = tiny(name, dropout=0.1), EmbeddingTap(nn.Embedding(2, 2))
    before, stream = state(model), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="did not run"):
        text_objective(model, batch(name), tap=elsewhere, seed=0)
    assert state(model) == before
    assert torch.equal(torch.get_rng_state(), stream)


# --- refusals


def test_a_batch_without_labels_is_refused():
    full = batch("bert")
    del full["labels"]
    objective = text_objective(tiny("bert"), full, seed=0)
    with pytest.raises(StepError, match="the batch needs labels"):
        objective.forward()


def test_a_module_that_returns_no_embedding_is_refused():
    model = tiny("bert")
    tap = EmbeddingTap(find_embedding(model, "bert.pooler"))
    with pytest.raises(UserError, match="BertPooler does not return one"):
        text_objective(model, batch("bert"), tap=tap, seed=0)


# --- what is passed on


def test_backward_and_seed_are_passed_on():
    model, seen = tiny("bert"), []
    objective = text_objective(model, batch("bert"), backward=seen.append, seed=5, passes=2)
    loss = objective.forward().loss
    objective.backward(loss)
    assert seen == [loss]
    assert objective.generator.initial_seed() == 5
    assert objective.passes == 2


def test_a_models_own_no_sync_is_entered_for_all_passes_but_the_last():
    model, entered = tiny("bert"), []

    @contextlib.contextmanager
    def no_sync():
        entered.append(1)
        yield

    model.no_sync = no_sync
    objective = text_objective(model, batch("bert"), seed=0, passes=2)
    zero = torch.zeros_like(objective.mask)
    full_pass(objective, zero)
    assert len(entered) == 2  # forward and backward
    full_pass(objective, zero)
    assert len(entered) == 2


def test_one_sentence_alone_gives_its_own_row():
    model, full = tiny("bert"), batch("bert")
    whole = text_objective(model, full, seed=0)
    for row, length in enumerate(LENGTHS):
        alone = text_objective(model, example(full, row, trimmed=True), seed=0)
        assert alone.x.shape == (1, length, 16)
        torch.testing.assert_close(alone.x[0], whole.x[row, :length])


# --- what divergences compare


def moved(objective):
    """The clean output and one at a δ."""
    return objective.forward(), objective.forward(noise(objective.mask))


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(P ‖ Q) of one row of logits."""
    p, q = p.softmax(-1), q.softmax(-1)
    return (p * (p / q).log()).sum()


def tiny_bert(cls: str, **settings) -> nn.Module:
    config = copy.deepcopy(tiny("bert").config)
    config.update(settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, cls)(config).double()


@pytest.mark.parametrize("name", ["bert", "gpt2", "bert_choice", "bart", "xlnet"])
def test_one_output_a_sentence_is_compared_by_sentence(name):
    objective = text_objective(tiny(name), batch(name), seed=0)
    clean, other = moved(objective)
    assert objective.outputs(clean.logits)[0] == "classes"
    rows = [kl(p, q) for p, q in zip(clean.logits, other.logits, strict=True)]
    want = sum(rows) / 3
    assert want > 1e-4
    torch.testing.assert_close(objective.divergence(clean, other), want, rtol=1e-8, atol=0)


def test_labelled_tokens_alone_are_compared():
    full = batch("t5_token")
    full["labels"][0, 1:] = -100  # one, three and three labelled tokens
    objective = text_objective(tiny("t5_token"), full, seed=0)
    counted = full["labels"] != -100
    assert torch.equal(objective.counted, counted)
    clean, other = moved(objective)
    rows = []
    for p, q, which in zip(clean.logits, other.logits, counted, strict=True):
        tokens = [kl(p[t], q[t]) for t in which.nonzero().flatten()]
        rows.append(sum(tokens) / len(tokens))
    assert [int(row.sum()) for row in counted] == [1, 3, 3]
    want = sum(rows) / 3
    torch.testing.assert_close(objective.divergence(clean, other), want, rtol=1e-6, atol=0)


def test_a_language_models_tokens_are_those_whose_next_one_is_labelled():
    full = batch("gpt2_lm", padding=2)
    full["labels"][1, :3] = -100  # a prompt
    objective = text_objective(tiny("gpt2_lm"), full, seed=0)
    assert objective.counted.sum(1).tolist() == [4, 4, 3]
    assert not objective.counted[:, -1].any()
    clean, other = moved(objective)
    # The loss is the mean over the same tokens.
    logits, labels = clean.logits[:, :-1], full["labels"][:, 1:]
    each = nn.functional.cross_entropy(logits.mT, labels, reduction="none")
    assert torch.equal(each != 0, objective.counted[:, :-1])
    mean = (each * objective.counted[:, :-1]).sum() / objective.counted.sum()
    torch.testing.assert_close(clean.loss, mean, check_dtype=False, rtol=1e-6, atol=0)
    rows = []
    for p, q, which in zip(clean.logits, other.logits, objective.counted, strict=True):
        tokens = [kl(p[t], q[t]) for t in which.nonzero().flatten()]
        rows.append(sum(tokens) / len(tokens))
    got = objective.divergence(clean, other)
    torch.testing.assert_close(got, sum(rows) / 3, rtol=1e-6, atol=0)


def test_a_pair_of_encoder_and_decoder_predicts_its_labels_in_place():
    full = batch("t5", padding=2)
    full["labels"] = batch("t5")["labels"]
    objective = text_objective(tiny("t5"), full, seed=0)
    assert torch.equal(objective.counted, full["labels"] != -100)
    clean, other = moved(objective)
    assert clean.logits.shape[:2] == objective.counted.shape
    assert objective.divergence(clean, other) > 1e-4


def test_a_sentence_without_labelled_tokens_weighs_nothing():
    full = batch("t5_token")
    full["labels"][0] = -100
    objective = text_objective(tiny("t5_token"), full, seed=0)
    clean, other = moved(objective)
    whole = objective.divergence(clean, other)
    delta = torch.zeros_like(objective.mask)
    delta[0] = noise(delta[0])
    assert objective.divergence(clean, objective.forward(delta)) == 0
    assert whole > 0


def test_regression_is_compared_by_its_squared_difference():
    model = tiny_bert("BertForSequenceClassification", num_labels=1)
    full = batch("bert") | {"labels": torch.tensor([0.1, 0.7, -0.2], dtype=torch.float64)}
    objective = text_objective(model, full, seed=0)
    clean, other = moved(objective)
    assert objective.outputs(clean.logits)[0] == "scores"
    want = (clean.logits - other.logits).square().mean()
    for symmetric in (False, True):
        got = objective.divergence(clean, other, symmetric=symmetric)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


def test_several_labels_are_compared_label_by_label():
    model = tiny_bert("BertForSequenceClassification", num_labels=TOKENS)  # as many as tokens
    generator = torch.Generator().manual_seed(5)
    labels = torch.rand((3, TOKENS), generator=generator, dtype=torch.float64).round()
    objective = text_objective(model, batch("bert") | {"labels": labels}, seed=0)
    clean, other = moved(objective)
    assert objective.outputs(clean.logits)[0] == "labels"
    p, q = clean.logits.sigmoid(), other.logits.sigmoid()
    each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    got = objective.divergence(clean, other)
    torch.testing.assert_close(got, each.sum(1).mean(), rtol=1e-8, atol=0)


def test_the_share_multiplies_a_divergence():
    objective = text_objective(tiny("bert"), batch("bert"), seed=0)
    half = text_objective(tiny("bert"), batch("bert"), seed=0, share=0.5)
    clean, other = moved(objective)
    assert half.divergence(clean, other) == 0.5 * objective.divergence(clean, other)


def test_a_model_without_logits_has_nothing_to_compare():
    def loss_alone(model, inputs):
        return Output(model(**inputs).loss, None)

    objective = text_objective(tiny("bert"), batch("bert"), seed=0, forward=loss_alone)
    with pytest.raises(ValueError, match="compares logits, and the model returns none") as caught:
        objective.divergence(*moved(objective))
    assert str(caught.value).endswith(".")
