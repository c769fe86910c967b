"""Set-ups in which an adversarial step would be silently wrong, refused with the way out."""

import warnings
from typing import Any

from nlp_adv.errors import UserError
from nlp_adv.methods import InnerPasses, Method, bare
from nlp_adv.methods.around import found_around
from nlp_adv.training.exchange import sharding


def refuse_unsupported(trainer: Any, method: Method) -> None:
    """Raise UserError where the passes of a step would not be what the method thinks they are."""
    args = trainer.args
    check_model(method, trainer.model)
    if args.n_gpu > 1:
        raise UserError(
            f"nn.DataParallel over {args.n_gpu} GPUs would give all of them one scattered δ; start "
            f"the script with `torchrun --nproc_per_node {args.n_gpu}` or `accelerate launch`."
        )
    _refuse_sharded(trainer, method)
    if getattr(bare(method), "reads_completions", False) and args.label_smoothing_factor:
        raise UserError(
            f"{method.name} makes its losses of completions by itself, so that "
            f"label_smoothing_factor {args.label_smoothing_factor} would change nothing; leave it "
            f"off."
        )
    if getattr(method, "prefix_passes", 0) and args.torch_compile:
        raise UserError(
            f"{method.name} runs the first block alone and uncompiled, and a compiled model draws "
            f"other dropout masks; leave --torch_compile off."
        )
    inner = found_around(method, InnerPasses)
    if inner is not None and inner.precision and (args.bf16 or args.fp16):
        raise UserError(
            f"All passes of this run are in {'bf16' if args.bf16 else 'fp16'} already, so that "
            f"--adv_inner_precision would change nothing; leave it off."
        )
    if inner is not None and inner.prefix and args.torch_compile:
        raise UserError(
            "--adv_inner_prefix exchanges what modules do, which a compiled model does not see; "
            "leave it or --torch_compile off."
        )
    if getattr(args, "ddp_static_graph", False):
        raise UserError("ddp_static_graph allows one pass a step; leave it off.")
    optimizer = str(getattr(args.optim, "value", args.optim)).lower()
    if "lomo" in optimizer or optimizer.endswith("layerwise"):
        raise UserError(
            f"{optimizer} updates the weights inside the backward pass, which happens several "
            f"times a step here; use another optimizer."
        )
    # DeepSpeed's own hooks take in what every backward pass brings.
    hooked = None if trainer.is_deepspeed_enabled else _hooked_parameter(trainer.model)
    if hooked is not None and method.passes > 1:
        raise UserError(
            f"The parameter {hooked} has a hook or an optimizer that runs whenever its gradient is "
            f"ready (register_post_accumulate_grad_hook), which happens {method.passes} times a "
            f"step here; take it away and use an ordinary optimizer."
        )
    parallelism = getattr(trainer.accelerator, "parallelism_config", None)
    kinds = ("cp_enabled", "sp_enabled", "tp_enabled")
    if any(getattr(parallelism, kind, False) for kind in kinds):
        raise UserError(
            "Context, sequence and tensor parallelism split one example over processes, so its δ "
            "has no norm here; use DDP."
        )


def refuse_one_epoch(method: Method, steps: int, epoch_steps: int) -> None:
    """Raise UserError where a method that waits for an example's second visit would see none.

    Args:
        method: of the run.
        steps: optimizer steps of the run, 0 where it is none.
        epoch_steps: those of an epoch, 0 where it has no length.
    """
    if getattr(bare(method), "waits_an_epoch", False) and 0 < steps <= epoch_steps:
        raise UserError(
            f"With these settings {method.name} moves an example from its second epoch on, and "
            f"this run has one: train for more, remember by words (fgm_remembered) or begin at "
            f"random (freelb with --adv_init_magnitude)."
        )


def check_model(method: Method, model: Any) -> None:
    """Raise UserError where the method names what the model does not have."""
    check = getattr(bare(method), "check_model", None)
    if check is not None:
        try:
            check(model)
        except ValueError as error:
            raise UserError(str(error)) from error


def _refuse_sharded(trainer: Any, method: Method) -> None:
    """What needs whole weights, and what was not seen to be right under FSDP and DeepSpeed."""
    kind, inner = sharding(trainer), bare(method)
    if kind is None:
        if trainer.args.fsdp and trainer.args.world_size > 1:
            warnings.warn(
                f"accelerate does not run FSDP on {trainer.args.device.type}: this run trains with "
                f"DDP, each process with the whole model.",
                stacklevel=2,
            )
        return
    if kind == "FSDP":
        raise UserError(
            "Adversarial training under the first version of FSDP is not supported; use the second "
            "(--fsdp_config '{\"version\": 2}')."
        )
    spread = getattr(getattr(trainer.model, "config", None), "distributed_config", None)
    if kind == "FSDP2" and int(getattr(spread, "dp_replicate_size", None) or 1) > 1:
        raise UserError(
            "Replicas of shards (dp_replicate_size > 1) exchange gradients by a switch of their "
            "own, which several passes a step would leave off; use dp_replicate_size 1."
        )
    if getattr(inner, "whole_weights", False) and kind != "ZeRO-0":
        raise UserError(
            f"{method.name} reads or moves whole weight matrices or their gradients, which {kind} "
            f"keeps in parts or in buffers of its own; use DDP, or another method."
        )
    if getattr(method, "prefix_passes", 0) and kind == "ZeRO-3":
        raise UserError(
            f"{method.name} runs the first block alone, whose weights ZeRO-3 gathers only for the "
            f"whole model; use ZeRO-2, FSDP2 or DDP, or another method."
        )
    if getattr(inner, "reads_table", False) and kind == "ZeRO-3":
        raise UserError(
            f"{method.name} has a row for each word of the embedding matrix, of which ZeRO-3 shows "
            f"no process the size; use ZeRO-2, FSDP2 or DDP, or another method."
        )
    if kind.startswith("ZeRO") and trainer.args.fp16:
        raise UserError(
            "DeepSpeed scales the losses of fp16 by itself, not those of the passes for δ, which "
            "would underflow; use --bf16."
        )


def _hooked_parameter(model: Any) -> str | None:
    """The first trained parameter with a hook after its gradient, as layer-wise optimizers have."""
    for name, parameter in model.named_parameters():
        # What torch.distributed.optim's optimizers in the backward pass leave on a parameter.
        inside = getattr(parameter, "_in_backward_optimizers", None)
        if parameter.requires_grad and (parameter._post_accumulate_grad_hooks or inside):
            return str(name)
    return None
