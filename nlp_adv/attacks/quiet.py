"""An attack leaves no trace: what it needs of the model is borrowed for the time of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from nlp_adv.perturbation.evaluating import evaluating
from nlp_adv.perturbation.inner_pass import without_parameter_gradients


@contextmanager
def quiet(model: Any) -> Iterator[None]:
    """Eval mode, no parameter gradients, gradients enabled; all of it undone, also on errors.

    In eval mode BatchNorm's statistics stand still and nothing random is drawn; what a model draws
    all the same is drawn from a copy of the random streams. Every module's own training flag and
    every parameter's `requires_grad` come back; `.grad` is never written. Callers may be inside
    `torch.no_grad()` or `torch.inference_mode()`.

    Args:
        model: a module, or any function of the pixels.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if not isinstance(model, nn.Module):
            stack.enter_context(torch.random.fork_rng())
            yield
            return
        devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
        stack.enter_context(torch.random.fork_rng(list(devices)))
        stack.enter_context(evaluating(model))
        stack.enter_context(without_parameter_gradients(model))
        yield
