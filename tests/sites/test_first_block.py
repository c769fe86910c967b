"""A model's first block, found and stopped at: what yopo's ascents run instead of the model."""

import pytest
import torch
import transformers as hf
from models import ARCHITECTURES, VOCAB, assert_gradients, batch, checkpoint, gradients, tiny
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from nlp_adv.errors import UserError
from nlp_adv.methods import YOPO, FreeLB
from nlp_adv.perturbation import (
    FirstBlock,
    L2Ball,
    LInfBall,
    ModelObjective,
    Output,
    find_first_block,
    full_pass,
)
from nlp_adv.sites.embeddings import EmbeddingTap, find_embedding
from nlp_adv.sites.objective import text_objective

FIRST = {
    "albert": "albert.encoder.albert_layer_groups.0",  # shared by all layers
    "bart": "model.encoder.layers.0",
    "bert": "bert.encoder.layer.0",
    "bert_choice": "bert.encoder.layer.0",
    "distilbert": "distilbert.transformer.layer.0",
    "electra": "electra.encoder.layer.0",
    "gpt2": "transformer.h.0",
    "gpt2_lm": "transformer.h.0",
    "llama": "model.layers.0",
    "longformer": "longformer.encoder.layer.0",
    "modernbert": "model.layers.0",
    "roberta": "roberta.encoder.layer.0",
    "t5": "encoder.block.0",
    "t5_token": "transformer.encoder.block.0",
    "vit": "vit.layers.0",
    "xlnet": "transformer.layer.0",
}
LATER = {  # the block after it
    name: first[:-1] + "1" for name, first in FIRST.items() if name not in ("albert", "vit")
}
CHECKPOINTED = [name for name in FIRST if name not in ("albert", "xlnet")]  # which cannot be
each_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def noise(like: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(like.shape, generator=generator, dtype=like.dtype)


def padded_left(full: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: v.flip(-1) if v.ndim > 1 else v for key, v in full.items()}


def objective_of(name, model, *, left=False, **options):
    full = batch(name, padding=1)
    if name == "t5":  # the decoder's side has no padding of its own
        full["labels"] = batch(name)["labels"]
    return text_objective(model, padded_left(full) if left else full, seed=0, **options)


def tiny_vit(dropout: float = 0.0) -> nn.Module:
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ViTForImageClassification(config).double().train()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
    return model


def image_objective(model: nn.Module, **options) -> ModelObjective:
    """Three images as a function of δ on their pixels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((3, 3, 8, 8), generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 1])

    def run(delta: Tensor | None) -> Output:
        out = model(images if delta is None else images + delta, labels=labels)
        return Output(out.loss, out.logits)

    found = find_first_block(model, lambda: run(None))
    assert found is not None
    block = FirstBlock(found, run)
    mask = torch.ones_like(images)
    return ModelObjective(
        run=run, x=images, mask=mask, model=model, seed=0, first_block=block, **options
    )


def any_objective(name: str, *, dropout: float = 0.1, checkpointing: bool | None = None, **options):
    """The model and its objective; `checkpointing` is whether it is reentrant."""
    model = tiny_vit(dropout) if name == "vit" else tiny(name, dropout=dropout)
    if checkpointing is not None:
        checkpoint(model, use_reentrant=checkpointing)
        if checkpointing:
            model.enable_input_require_grads()
    if name == "vit":
        return model, image_objective(model)
    return model, objective_of(name, model, **options)


def assert_prefix_gives_the_whole_gradient(objective):
    """p is that of the pass at δ, so ∇δ ⟨p, h(x + δ)⟩ is ∇δ L there."""
    for seed in (0, 1):
        delta = noise(objective.mask, seed)
        _, grad, p = objective.split_pass(delta)
        got = objective.prefix_gradient(delta, p)
        assert grad.abs().max() > 1e-4
        torch.testing.assert_close(got, grad, rtol=0, atol=1e-10)
        assert (got[objective.mask == 0] == 0).all()
        want = objective.gradient(delta)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


# --- found


@each_architecture
def test_it_is_found(name):
    model = tiny(name)
    block = objective_of(name, model)._block()
    assert block.module is model.get_submodule(FIRST[name])


def test_it_is_found_in_an_image_model():
    model = tiny_vit()
    assert image_objective(model)._block().module is model.get_submodule(FIRST["vit"])


def test_it_is_looked_for_once_and_kept_on_the_tap():
    model, full = tiny("bert"), batch("bert")
    tap = EmbeddingTap(find_embedding(model))
    runs = []
    model.bert.embeddings.register_forward_pre_hook(lambda *_: runs.append(1))
    for count in (3, 2):  # a look at the embedding, a search, and a run of the first block
        objective = text_objective(model, full, tap=tap, seed=0)
        delta = torch.zeros_like(objective.mask)
        objective.prefix_gradient(delta, torch.ones_like(objective.x))
        assert len(runs) == count
        runs.clear()


def test_looking_for_it_leaves_no_hook_and_draws_nothing():
    model = tiny("bert", dropout=0.1)
    objective = objective_of("bert", model)
    stream = torch.get_rng_state()
    objective._block()
    assert torch.equal(torch.get_rng_state(), stream)
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    assert not any(getattr(m, kind) for m in model.modules() for kind in kinds)


# --- the same gradient


# Longformer is padded on the right alone: it looks at a sentence from its first token.
@pytest.mark.parametrize(
    ("name", "left"),
    [
        (name, left)
        for name in ARCHITECTURES
        for left in (False, True)
        if (name, left) != ("longformer", True)
    ],
)
def test_the_prefix_gives_the_whole_gradient(name, left):
    # In float64 Llama's eager mask overflows where a token sees padding alone.
    attention = "sdpa" if name == "llama" else "eager"
    model = tiny(name, dropout=0.1, attention=attention)
    assert_prefix_gives_the_whole_gradient(objective_of(name, model, left=left))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_prefix_gives_the_whole_gradient_on_pixels(dropout):
    assert_prefix_gives_the_whole_gradient(image_objective(tiny_vit(dropout)))


@pytest.mark.parametrize(
    ("name", "reentrant"),
    [
        *((name, False) for name in CHECKPOINTED),
        *((name, True) for name in ("bert", "t5", "vit")),
        *(
            pytest.param(name, True, marks=pytest.mark.slow)
            for name in CHECKPOINTED
            if name not in ("bert", "t5", "vit")
        ),
    ],
)
def test_the_prefix_gives_the_whole_gradient_under_checkpointing(name, reentrant):
    _, plain = any_objective(name)
    torch.manual_seed(0)
    model, objective = any_objective(name, checkpointing=reentrant)
    assert_prefix_gives_the_whole_gradient(objective)
    # Still checkpointed, and the same model.
    assert any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    plain._frozen_dropout = objective._frozen_dropout
    delta = noise(objective.mask)
    got, want = full_pass(objective, delta), full_pass(plain, delta)
    torch.testing.assert_close(got.grad, want.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_implementation_makes_no_difference(attention):
    model = tiny("bert", dropout=0.1, attention=attention)
    assert_prefix_gives_the_whole_gradient(objective_of("bert", model))


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5_token", "albert"])
def test_a_model_in_bfloat16(name):
    model = tiny(name).bfloat16()
    objective = objective_of(name, model)
    delta = noise(objective.mask)
    _, grad, p = objective.split_pass(delta)
    got = objective.prefix_gradient(delta, p)
    assert got.dtype == grad.dtype == torch.float32
    assert (got - grad).norm() <= 0.05 * grad.norm()


def test_a_later_block_does_as_well_when_it_is_named():
    model = tiny("bert", dropout=0.1)
    objective = objective_of("bert", model, first_block="bert.encoder.layer.1")
    assert objective._block().module is model.bert.encoder.layer[1]
    assert_prefix_gives_the_whole_gradient(objective)


# --- what runs


@pytest.mark.parametrize("name", sorted(LATER))
def test_the_prefix_runs_the_first_block_once_and_no_later_one(name):
    model, objective = any_objective(name)
    _, _, p = objective.split_pass(noise(objective.mask))
    runs = {"first": 0, "later": 0, "embedding": 0}

    def count(key):
        return lambda *_: runs.update({key: runs[key] + 1})

    model.get_submodule(FIRST[name]).register_forward_pre_hook(count("first"))
    model.get_submodule(LATER[name]).register_forward_pre_hook(count("later"))
    find_embedding(model).register_forward_pre_hook(count("embedding"))
    objective.prefix_gradient(noise(objective.mask), p)
    assert runs == {"first": 1, "later": 0, "embedding": 1}


def test_shared_layers_run_once_in_the_prefix():
    model, objective = any_objective("albert")
    _, _, p = objective.split_pass(noise(objective.mask))
    runs = []
    model.get_submodule(FIRST["albert"]).register_forward_pre_hook(lambda *_: runs.append(1))
    objective.prefix_gradient(noise(objective.mask), p)
    assert len(runs) == 1
    objective.forward()
    assert len(runs) == 3  # that model has two layers


def test_the_prefix_computes_no_parameter_gradient():
    model, objective = any_objective("bert")
    _, _, p = objective.split_pass(noise(objective.mask))
    before = gradients(model)
    objective.prefix_gradient(noise(objective.mask), p)
    after = gradients(model)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", ["bert", "albert", "gpt2", "t5_token", "vit"])
def test_the_random_stream_continues_as_after_one_ordinary_pass(name):
    torch.manual_seed(3)
    model, objective = any_objective(name)
    objective.forward()
    ordinary = torch.get_rng_state()

    torch.manual_seed(3)
    model, objective = any_objective(name)
    ball = LInfBall(0.1) if name == "vit" else L2Ball(0.5)
    YOPO(ball, step_size=0.05, rounds=3, steps=3).step(objective)
    assert torch.equal(torch.get_rng_state(), ordinary)
    assert any(p.grad is not None for p in model.parameters())


def test_with_one_ascent_a_pass_it_is_freelb():
    """The first ascent's gradient is the full pass's own, so that no prefix runs."""
    found = []
    for method in (
        YOPO(L2Ball(0.5), step_size=0.1, rounds=3, steps=1),
        FreeLB(L2Ball(0.5), step_size=0.1, steps=3),
    ):
        torch.manual_seed(0)
        model, objective = any_objective("bert")
        method.step(objective)
        found.append(gradients(model))
    assert_gradients(*found, atol=1e-14)


# --- refusals


class WithoutBlocks(nn.Module):
    """A bag of words."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(VOCAB, 4)
        self.heads = nn.ModuleList([nn.Linear(4, 2)])

    def forward(self, input_ids, labels, **kwargs):
        logits = self.words(input_ids).mean(1) @ self.heads[0].weight.T
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def assert_one_sentence(error):
    text = str(error)
    assert text.endswith(".")
    assert ". " not in text
    assert "\n" not in text


def test_a_model_without_blocks_is_refused():
    model = WithoutBlocks()
    tap = EmbeddingTap(find_embedding(model, "words"))
    objective = text_objective(model, batch("bert"), tap=tap, seed=0)
    full_pass(objective, torch.zeros_like(objective.mask))  # other methods run
    with pytest.raises(UserError, match=r"WithoutBlocks .* \(--adv_first_block\)") as caught:
        objective.split_pass(torch.zeros_like(objective.mask))
    assert_one_sentence(caught.value)


def test_a_name_that_is_no_module_is_refused():
    objective = objective_of("bert", tiny("bert"), first_block="bert.encoder.layer.9")
    with pytest.raises(UserError, match=r"'bert\.encoder\.layer\.9'") as caught:
        objective.split_pass(torch.zeros_like(objective.mask))
    assert_one_sentence(caught.value)


def test_a_module_that_does_not_run_is_refused():
    model = tiny("bert")
    model.unused = nn.Linear(2, 2)
    objective = objective_of("bert", model, first_block="unused")
    zero = torch.zeros_like(objective.mask)
    with pytest.raises(RuntimeError, match="first block"):
        objective.split_pass(zero)
    with pytest.raises(RuntimeError, match=r"first block \(Linear\) did not run"):
        objective.prefix_gradient(zero, torch.zeros_like(objective.x))


def test_a_module_that_returns_no_hidden_states_is_refused():
    model = tiny("bert")
    model.bert.encoder.register_forward_hook(lambda *_: {"states": None})
    objective = objective_of("bert", model, first_block="bert.encoder")
    with pytest.raises(RuntimeError, match="no tensor of hidden states"):
        objective.prefix_gradient(torch.zeros_like(objective.mask), objective.x)


def test_a_whole_stack_will_do_when_it_is_named():
    objective = objective_of("bert", tiny("bert", dropout=0.1), first_block="bert.encoder")
    assert_prefix_gives_the_whole_gradient(objective)


# --- LayerDrop


def with_layer_drop(name: str, share: float) -> tuple[nn.Module, nn.ModuleList]:
    """A model that skips blocks at random while training, and its encoder's blocks."""
    config = {"d_model": 16, "encoder_layers": 3, "decoder_layers": 2, "vocab_size": VOCAB}
    config |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "dropout": 0.1}
    config |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 32}
    config |= {"pad_token_id": 0, "decoder_start_token_id": 3, "encoder_layerdrop": share}
    cls = {
        "bart": hf.BartForConditionalGeneration,
        "mbart": hf.MBartForConditionalGeneration,
        "m2m": hf.M2M100ForConditionalGeneration,
        "pegasus": hf.PegasusForConditionalGeneration,
    }[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = cls(cls.config_class(**config)).double().train()
    return model, model.model.encoder.layers


def language_batch() -> dict[str, Tensor]:
    full = batch("bart")
    return full | {"labels": full["input_ids"].masked_fill(full["attention_mask"] == 0, -100)}


def ran(blocks: nn.ModuleList) -> list[int]:
    """Which of the blocks run from now on, in order."""
    found: list[int] = []
    for place, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda *_, place=place: found.append(place))
    return found


@pytest.mark.fault("T19")
@pytest.mark.parametrize("name", ["bart", "mbart", "m2m", "pegasus"])
@pytest.mark.parametrize("seed", range(6))
def test_layer_drop_does_not_hide_the_first_block(name, seed):
    model, blocks = with_layer_drop(name, 0.6)
    modes = [module.training for module in model.modules()]
    torch.manual_seed(seed)
    objective = text_objective(model, language_batch(), seed=0)
    stream = torch.get_rng_state()
    assert objective._block().module is blocks[0]
    assert torch.equal(torch.get_rng_state(), stream)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.fault("T19")
@pytest.mark.parametrize("reentrant", [None, False, True], ids=["plain", "saved", "reentrant"])
def test_where_layer_drop_skips_the_first_block_the_next_one_stands_in(reentrant):
    """p and the prefix belong to the same point of the network, whichever blocks run."""
    lots = set()
    for seed in range(12):
        model, blocks = with_layer_drop("bart", 0.6)
        if reentrant is not None:
            checkpoint(model, use_reentrant=reentrant)
            model.enable_input_require_grads()
        torch.manual_seed(seed)
        objective = text_objective(model, language_batch(), seed=0)
        objective._block()
        assert_prefix_gives_the_whole_gradient(objective)
        found = ran(blocks)
        objective.forward()
        lots.add(tuple(found))
    assert () in lots
    assert any(len(lot) > 1 for lot in lots)
    assert any(lot and lot[0] > 0 for lot in lots)


@pytest.mark.fault("T19")
def test_a_named_block_that_layer_drop_skips_has_the_later_ones_to_stand_in():
    for seed in range(6):
        model, _ = with_layer_drop("bart", 0.6)
        torch.manual_seed(seed)
        name = "model.encoder.layers.1"
        objective = text_objective(model, language_batch(), seed=0, first_block=name)
        assert_prefix_gives_the_whole_gradient(objective)


@pytest.mark.fault("T19")
@pytest.mark.parametrize("seed", range(4))
def test_yopo_trains_a_model_with_layer_drop(seed):
    model, _ = with_layer_drop("bart", 0.9)
    torch.manual_seed(seed)
    report = YOPO(L2Ball(0.5), 0.1, rounds=2, steps=3).step(
        text_objective(model, language_batch(), seed=0)
    )
    assert torch.isfinite(report.loss)
