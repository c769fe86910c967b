"""Set-ups in which a step would be silently wrong are refused, with the way out."""

from types import SimpleNamespace

import pytest
import torch
from models import tiny
from tiny_training import METHODS as RUNS
from tiny_training import assert_one_sentence, build, hooks, trained
from torch import nn
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification
from transformers.training_args import OptimizerNames

from nlp_adv import UserError
from nlp_adv.methods import FGM, METHODS
from nlp_adv.perturbation import L2Ball
from nlp_adv.training.refusals import refuse_unsupported

OPTIMIZERS = [member.value for member in OptimizerNames]
FLAGS = {"adv": "fgm", "max_steps": 1}


def refused(trainer):
    """The message of `train()`, which has left no hook behind."""
    with pytest.raises(UserError) as caught:
        trainer.train()
    assert hooks(trainer.model) == 0
    assert_one_sentence(caught.value)
    return str(caught.value)


def test_an_ordinary_set_up_is_not_refused(tmp_path):
    assert refuse_unsupported(build(tmp_path, **FLAGS), FGM(L2Ball(0.1))) is None


def test_data_parallel(tmp_path, monkeypatch):
    trainer = build(tmp_path, **FLAGS)
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    text = refused(trainer)
    assert "torchrun --nproc_per_node 2" in text


def sharded(folder, kind):
    """A Trainer that thinks it shards."""
    trainer = build(folder, **FLAGS)
    if kind.startswith("FSDP"):
        trainer.is_fsdp_enabled = True
        plugin = SimpleNamespace(fsdp_version=2 if kind == "FSDP2" else 1)
        trainer.accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))
    else:
        trainer.is_deepspeed_enabled = True
        plugin = SimpleNamespace(zero_stage=int(kind[-1]))
        trainer.accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin))
    return trainer


@pytest.mark.fault("D10")
@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("FSDP", "fgm", "first version of FSDP"),
        ("FSDP2", "awp", "whole weight matrices"),
        ("FSDP2", "fgm_matrix", "whole weight matrices"),
        ("FSDP2", "smart-past", "whole weight matrices"),
        ("ZeRO-1", "awp", "which ZeRO-1 keeps in parts"),
        ("ZeRO-3", "smart-past", "which ZeRO-3 keeps in parts"),
        ("ZeRO-3", "yopo", "ZeRO-3 gathers only for the whole model"),
        ("ZeRO-3", "relative-yopo", "ZeRO-3 gathers only for the whole model"),
        ("ZeRO-3", "tavat", "a row for each word of the embedding matrix"),
        ("ZeRO-3", "relative-tavat", "a row for each word of the embedding matrix"),
    ],
)
def test_sharded_training(tmp_path, kind, name, said):
    with pytest.raises(UserError, match=said) as caught:
        refuse_unsupported(sharded(tmp_path, kind), RUNS[name])
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("kind", ["FSDP2", "ZeRO-1", "ZeRO-2", "ZeRO-3"])
@pytest.mark.parametrize("name", ["fgm", "pgd", "freelb", "trades", "smart", "vat"])
def test_sharded_training_that_is_right(tmp_path, kind, name):
    assert refuse_unsupported(sharded(tmp_path, kind), RUNS[name]) is None


def test_replicas_of_shards(tmp_path):
    trainer = sharded(tmp_path, "FSDP2")
    trainer.model.config.distributed_config = SimpleNamespace(dp_replicate_size=2)
    with pytest.raises(UserError, match="dp_replicate_size 1") as caught:
        refuse_unsupported(trainer, RUNS["fgm"])
    assert_one_sentence(caught.value)


def test_half_precision_that_deepspeed_scales(tmp_path):
    trainer = sharded(tmp_path, "ZeRO-2")
    trainer.args.fp16 = True
    with pytest.raises(UserError, match="--bf16") as caught:
        refuse_unsupported(trainer, RUNS["fgm"])
    assert_one_sentence(caught.value)


def test_fsdp_that_accelerate_leaves_out_is_said(tmp_path, monkeypatch):
    trainer = build(tmp_path, **FLAGS)
    trainer.args.fsdp = True
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    with pytest.warns(UserWarning, match="does not run FSDP on cpu: this run trains with DDP"):
        refuse_unsupported(trainer, RUNS["fgm"])


@pytest.mark.fault("T16")
@pytest.mark.parametrize(
    "optimizer",
    ["lomo", "adalomo", *(name for name in OPTIMIZERS if name.endswith("_layerwise"))],
)
def test_optimizers_that_step_inside_the_backward_pass(tmp_path, optimizer):
    trainer = build(tmp_path, **FLAGS, optim=optimizer)
    with pytest.raises(UserError, match="optimizer") as caught:
        refuse_unsupported(trainer, FGM(L2Ball(0.1)))
    assert optimizer in str(caught.value)
    assert_one_sentence(caught.value)


def step_in_the_backward_pass(model, steps):
    """What layer-wise optimizers do: one for each parameter, which steps when its gradient is."""
    for parameter in model.parameters():
        optimizer = torch.optim.SGD([parameter], lr=0.1)

        def step(parameter, optimizer=optimizer):
            optimizer.step()
            optimizer.zero_grad()
            steps.append(parameter)

        parameter.register_post_accumulate_grad_hook(step)


@pytest.mark.fault("T16")
@pytest.mark.parametrize("name", ["fgm", "freelb", "pgd", "trades", "awp", "rdrop"])
def test_a_users_own_optimizer_in_the_backward_pass(tmp_path, name):
    model, steps = tiny("bert"), []
    step_in_the_backward_pass(model, steps)
    text = refused(build(tmp_path, model=model, adv=name))
    assert "register_post_accumulate_grad_hook" in text
    assert next(iter(dict(model.named_parameters()))) in text
    assert steps == []


@pytest.mark.fault("T16")
@pytest.mark.parametrize("flags", [{"adv": "none"}, {"adv": "pgd", "adv_clean_weight": 0.0}])
def test_where_a_step_has_one_backward_pass_that_optimizer_steps_once(tmp_path, flags):
    model, steps = tiny("bert"), []
    step_in_the_backward_pass(model, steps)
    build(tmp_path, model=model, **(FLAGS | {"max_steps": 2} | flags)).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(steps) == 2 * len(trained)


@pytest.mark.fault("T16")
def test_torchs_own_optimizer_in_the_backward_pass(tmp_path):
    optim = pytest.importorskip("torch.distributed.optim")
    model = tiny("bert")
    optim._apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": 0.1})
    assert "optimizer" in refused(build(tmp_path, model=model, **FLAGS))


def test_a_static_graph(tmp_path):
    assert "ddp_static_graph" in refused(build(tmp_path, **FLAGS, ddp_static_graph=True))


@pytest.mark.parametrize("kind", ["cp_enabled", "sp_enabled", "tp_enabled"])
def test_one_example_over_several_processes(tmp_path, kind):
    trainer = build(tmp_path, **FLAGS)
    fake = SimpleNamespace(**{kind: True})
    trainer.accelerator = SimpleNamespace(parallelism_config=fake)
    with pytest.raises(UserError, match="parallelism"):
        refuse_unsupported(trainer, FGM(L2Ball(0.1)))


def test_ordinary_training_is_never_refused(tmp_path, monkeypatch):
    trainer = build(tmp_path, adv="none", max_steps=1, ddp_static_graph=True)
    trainer.train()
    assert trainer.state.global_step == 1


@pytest.mark.parametrize("accumulation", [1, 2])
def test_images(tmp_path, accumulation):
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
    )
    images = [{"pixel_values": torch.ones(3, 8, 8), "labels": torch.tensor(1)}] * 8
    trainer = build(
        tmp_path,
        model=ViTForImageClassification(config),
        data=images,
        gradient_accumulation_steps=accumulation,
        **FLAGS,
    )
    text = refused(trainer)
    assert "processing_class=image_processor" in text


class WithoutEmbedding(nn.Module):
    """A model that does not say where its embedding is."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(60, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.head(self.words(input_ids).mean(1))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_a_model_that_does_not_name_its_embedding(tmp_path):
    text = refused(build(tmp_path, model=WithoutEmbedding(), **FLAGS))
    assert "--adv_embedding" in text
    assert "'words'" in text


def test_a_model_whose_embedding_is_named(tmp_path):
    trainer = build(tmp_path, model=WithoutEmbedding(), adv_embedding="words", **FLAGS)
    trainer.train()
    (relative,) = [e["delta_relative"] for e in trainer.state.log_history if "loss" in e]
    assert relative == pytest.approx(0.03, rel=1e-5)


def test_a_name_that_is_no_module(tmp_path):
    text = refused(build(tmp_path, adv_embedding="bert.wörds", **FLAGS))
    assert "bert.embeddings.word_embeddings" in text


def test_a_module_that_the_model_does_not_run(tmp_path):
    model = tiny("bert")
    model.unused = nn.Embedding(60, 16)
    with pytest.raises(UserError, match="did not run") as caught:
        build(tmp_path, model=model, adv_embedding="unused", **FLAGS).train()
    assert_one_sentence(caught.value)
    assert hooks(model) == 0


def test_yopo_in_a_compiled_model(tmp_path):
    assert "--torch_compile" in refused(build(tmp_path, adv="yopo", torch_compile=True))
    compiled = build(tmp_path, torch_compile=True, **FLAGS)
    for name in sorted(set(METHODS) - {"yopo"}):
        assert refuse_unsupported(compiled, METHODS[name].preset()) is None
    once = METHODS["yopo"](L2Ball(0.1), 0.1, rounds=3, steps=1)  # never runs the block alone
    assert refuse_unsupported(compiled, once) is None


def test_yopo_in_a_model_without_blocks(tmp_path):
    text = refused(build(tmp_path, model=WithoutEmbedding(), adv="yopo", adv_embedding="words"))
    assert "--adv_first_block" in text
    assert "WithoutEmbedding" in text


def test_yopo_with_a_name_that_is_no_block(tmp_path):
    text = refused(build(tmp_path, adv="yopo", adv_first_block="bert.encoder.layer.7"))
    assert "bert.encoder.layer.7" in text


def test_an_attack_that_would_begin_after_the_run(tmp_path):
    text = refused(build(tmp_path, adv="fgm", adv_start_step=5, max_steps=3))
    assert "--adv_start_step" in text


def test_special_tokens_without_a_tokenizer(tmp_path):
    text = refused(build(tmp_path, adv_exclude_special_tokens=True, **FLAGS))
    assert "processing_class" in text


def test_cheaper_passes_of_a_run_in_bfloat16_are_refused(tmp_path):
    flags = {"adv": "pgd", "adv_inner_precision": "bf16", "adv_inner_dropout": False}
    run = trained(tmp_path / "a", model=tiny("bert").float(), adv_share=0.5, **flags)
    assert run.state.global_step == 2
    with pytest.raises(UserError, match="bf16 already, so that --adv_inner_precision"):
        build(tmp_path / "b", model=tiny("bert").float(), bf16=True, **flags).train()
