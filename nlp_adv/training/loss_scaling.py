"""Does the model use the `num_items_in_batch` that the Trainer trusts it to use?

Most encoder heads accept it and ignore it. The Trainer then skips its own division, so that the
gradient is multiplied by the accumulation steps and by the number of processes, in ordinary
training as in adversarial training (huggingface/transformers#47688).
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.perturbation import FrozenDropout, copied, unwrapped
from nlp_adv.training.bookkeeping import Bookkeeping

logger = logging.getLogger(__name__)


def check_loss_scaling(
    trainer: Any, model: nn.Module, inputs: dict[str, Any], num_items: Tensor | int | None
) -> bool:
    """Warn where the gradient would be multiplied, or mend it with --adv_mend_loss_scaling.

    Returns:
        Whether the loss ignores `num_items_in_batch` and nothing mends it.

    Cost: two forward passes, once a run, and only under accumulation or several processes.
    """
    args = trainer.args
    several = args.gradient_accumulation_steps > 1 or args.world_size > 1
    if not several or num_items is None:
        return False
    if not trainer.model_accepts_loss_kwargs and not trainer.compute_loss_func:
        return False
    if not _ignores_num_items(trainer, model, inputs, num_items):
        return False
    if trainer.compute_loss_func:  # its author decides how it is scaled
        return True
    if getattr(args, "adv_mend_loss_scaling", False):
        trainer.model_accepts_loss_kwargs = False  # the Trainer divides by itself from now on
        return False
    logger.warning(
        "%s ignores num_items_in_batch, so the Trainer multiplies its gradient by the number of "
        "accumulation steps and processes (huggingface/transformers#47688), in ordinary training "
        "too. --adv_mend_loss_scaling mends both.",
        type(trainer.model).__name__,
    )
    return True


def share_of_a_mean(trainer: Any, num_items: Tensor | int | None, *, ignored: bool) -> float:
    """What a mean over a micro-batch's examples is multiplied by, to stand beside its loss.

    Divergences are such means. The Trainer divides them with the loss, unless the loss has been
    divided by `num_items_in_batch` already, or should have been.
    """
    args = trainer.args
    # As the stock step decides whether to divide by the accumulation steps.
    scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
    if scaled is None:
        counts = trainer.model_accepts_loss_kwargs and num_items is not None
        scaled = counts or trainer.compute_loss_func is not None
    if not scaled:
        return 1.0
    if ignored:  # as the loss: the Trainer multiplies by the processes
        return float(args.world_size) if args.average_tokens_across_devices else 1.0
    # Outside `train()` the Trainer has not counted an accumulated step's micro-batches yet.
    steps = args.gradient_accumulation_steps
    return 1 / int(getattr(trainer, "current_gradient_accumulation_steps", steps))


def _ignores_num_items(
    trainer: Any, model: nn.Module, inputs: dict[str, Any], num_items: Tensor | int
) -> bool:
    model = unwrapped(model)  # no process waits for another, nothing is compiled
    frozen, was_training = FrozenDropout(trainer.args.device), model.training
    model.eval()
    losses = []
    try:
        for factor in (1, 1000):
            with torch.no_grad(), frozen(), Bookkeeping(trainer).kept(False):
                items = num_items * factor
                losses.append(trainer.compute_loss(model, copied(inputs), num_items_in_batch=items))
    finally:
        model.train(was_training)
        frozen.restore()
    return torch.equal(losses[0], losses[1])
