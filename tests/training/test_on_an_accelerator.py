"""What an accelerator alone can show.

NLP_ADV_TEST_DEVICE=cpu tries as much of it as a processor can do.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

import pytest
import torch
from models import batch, gradients, tiny
from tiny_training import KEEPING, METHODS, trained

from nlp_adv import Memory, text_objective

DEVICE = os.environ.get("NLP_ADV_TEST_DEVICE", "cuda")
# What they do is known by δ alone: nothing is drawn on the device.
DRAWN_NOWHERE = ("fgm", "fgm-tokens", "fgm_matrix", "pgd", "pgd-clean", "freelb", "yopo", "tavat")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a GPU"),
]


def stepped(name: str, device: str, dtype: torch.dtype, *, attention: str = "eager", cast=None):
    """The gradients of one step of a method."""
    model = tiny("bert", attention=attention).to(device, dtype)
    inputs = {key: value.to(device) for key, value in batch("bert").items()}
    memory = Memory() if name in KEEPING else None
    objective = text_objective(model, inputs, seed=0, memory=memory)
    with torch.autocast(device, cast) if cast else not_cast():
        METHODS[name].step(objective)
    found = torch.cat([one.flatten() for one in gradients(model).values()]).double().cpu()
    assert found.isfinite().all()
    return found


@contextmanager
def not_cast():
    yield


def cosine(a, b) -> float:
    return torch.nn.functional.cosine_similarity(a, b, dim=0).item()


@pytest.mark.parametrize("name", DRAWN_NOWHERE)
def test_gradients_are_those_of_a_processor(name):
    there = stepped(name, DEVICE, torch.float32)
    assert torch.allclose(there, stepped(name, "cpu", torch.float64), rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["fgm", "pgd-clean", "freelb"])
def test_bfloat16_leads_the_same_way(name, attention):
    exact = stepped(name, DEVICE, torch.float32, attention=attention)
    cast = stepped(name, DEVICE, torch.float32, attention=attention, cast=torch.bfloat16)
    assert cosine(exact, cast) > 0.9


@pytest.mark.parametrize("name", sorted(METHODS))
def test_no_method_waits_for_the_device(name):
    """What must wait is the model's own; δ that is kept between steps lies in main memory."""
    if DEVICE != "cuda":
        pytest.skip("only CUDA says when something waits")
    if name in KEEPING:
        pytest.skip("what is kept travels to main memory")
    model = tiny("bert", attention="sdpa").float().to(DEVICE)
    inputs = {key: value.to(DEVICE) for key, value in batch("bert").items()}
    METHODS[name].step(text_objective(model, inputs, seed=0))  # libraries start up
    objective = text_objective(model, inputs, seed=1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        METHODS[name].step(objective)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("options", [{"fp16": True}, {"bf16": True}, {"torch_compile": True}])
@pytest.mark.parametrize("name", ["pgd-clean", "freelb"])
def test_a_run_of_the_trainer(tmp_path, name, options):
    if DEVICE != "cuda" and "fp16" in options:
        pytest.skip("float16 is scaled on an accelerator alone")
    trainer = trained(
        tmp_path,
        model=tiny("bert").float(),
        options={"method": METHODS[name]},
        max_steps=3,
        use_cpu=DEVICE == "cpu",
        **options,
    )
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert trainer.state.global_step == 3
