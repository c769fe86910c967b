"""What a pass that is there for δ alone must not do to the model."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nlp_adv.perturbation.evaluating import evaluating


@contextmanager
def inner_pass(model: nn.Module) -> Iterator[None]:
    """No parameter gradients, and BatchNorm's running statistics stand still."""
    with without_parameter_gradients(model), still_statistics(model):
        yield


@contextmanager
def without_parameter_gradients(model: nn.Module) -> Iterator[None]:
    """`requires_grad` is off; what is pruned from the backward pass is not kept for it either.

    A forward pass may switch it on again, as PEFT does when an adapter comes back after a look at
    the model without it. Then there are gradients, and they are thrown away.
    """
    parameters = list(model.parameters())
    trainable = [p for p in parameters if p.requires_grad]
    earlier = [p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for parameter, grad in zip(parameters, earlier, strict=True):
            parameter.grad = grad


@contextmanager
def still_statistics(model: nn.Module) -> Iterator[None]:
    """BatchNorm normalises as it would, and its running statistics stand still.

    So they are those of the passes that θ is trained on, clean and adversarial alike.
    """
    # In evaluation mode a layer without tracking would use the batch's statistics.
    layers = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    ]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the time of a block, but for BatchNorm, which has its batch's statistics.

    Attention has its dropout by the mode of its own module, so that no list of modules would do.
    """
    norms = [one for one in model.modules() if isinstance(one, _BatchNorm) and one.training]
    with evaluating(model):
        for norm in norms:
            norm.training = True
        yield
