"""A minibatch of text as a function of δ on its word embeddings (B, T, D)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.loss.loss_utils import ForCausalLMLoss

from nlp_adv.errors import UserError
from nlp_adv.perturbation import (
    FirstBlock,
    ForwardFn,
    FrozenDropout,
    Memory,
    ModelObjective,
    NoMemory,
    NoSync,
    Output,
    blocks_after,
    copied,
    find_first_block,
    kind_of,
    model_forward,
    unwrapped,
)
from nlp_adv.sites.embeddings import EmbeddingTap, embedding_tap


def text_objective(
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    tap: EmbeddingTap | None = None,
    forward: ForwardFn = model_forward,
    backward: Callable[[Tensor], None] = torch.autograd.backward,
    unsynced: NoSync | None = None,
    passes: int = 0,
    seed: int | None = None,
    special_ids: Sequence[int] = (),
    loss_scale: Tensor | float = 1.0,
    memory: Memory | None = None,
    share: Tensor | float = 1.0,
    first_block: str | None = None,
    generators: Sequence[Any] = (),
) -> ModelObjective:
    """L(θ, E + δ, y), E the word embeddings of the batch: (B, T, D).

    In a loop of one's own:

        method = FreeLB(L2Ball(0.45), step_size=0.1, steps=3)
        for step, batch in enumerate(loader):
            backward = accelerator.backward
            objective = text_objective(
                model, batch, backward=backward, passes=method.passes, seed=step
            )
            method.step(objective)
            optimizer.step()
            optimizer.zero_grad()

    Args:
        model: a Hugging Face model, wrapped or not.
        batch: what its forward takes, labels included; it is not changed.
        tap: the installed hook of a training run; none hooks the model for each pass, which is
            wrong only under `torch.compile`.
        forward: (model, batch) → Output; a copy of the batch is given to every pass.
        backward: accumulates ∇θ.
        unsynced: a context without gradient exchange between processes; a DDP model's own
            `no_sync` by default.
        passes: `method.passes`, so that processes exchange gradients once a step.
        seed: of random starts; vary it with the step and the process.
        special_ids: ids whose tokens are not perturbed, e.g. `tokenizer.all_special_ids`.
        loss_scale, share: see `ModelObjective`.
        memory: the same one for all steps of a run, for methods that keep something (freeat,
            tavat, freelb with `reuse`, smart with a proximal term).
        first_block: name of the module that yopo takes for the first block, for models in which it
            is not found.
        generators: sources of random numbers that the forward pass draws from, beside torch's,
            numpy's and Python's global ones: see `FrozenDropout`.

    Raises:
        UserError: the model has no embedding to hook, batch and embedding do not fit together, or
            a method asks for a first block that is not found.

    Cost: one embedding look-up.
    """
    tap = tap or embedding_tap(model)
    rewind = FrozenDropout(_device(model), generators)
    try:
        ids, embedding = tap.look(lambda: forward(unwrapped(model), copied(batch)))
    finally:
        rewind.restore()
    if not isinstance(embedding, Tensor) or embedding.ndim != 3:
        raise UserError(
            f"The embedding {type(tap.module).__name__} does not return one (batch, tokens, width) "
            f"tensor; name another module with `embedding` (--adv_embedding)."
        )
    # XLNet runs its batch in the second dimension; δ keeps it in the first.
    turned = _is_turned(ids, batch, model)
    if turned:
        ids, embedding = ids.T, embedding.transpose(0, 1)
    wide = torch.promote_types(embedding.dtype, torch.float32)
    mask = _token_mask(ids, batch, special_ids, model).to(wide)

    def run_on(which: nn.Module, delta: Tensor | None) -> Output:
        inputs = copied(batch)
        if delta is None:
            with tap.installed():  # the same hooks, hence the same compiled graph, as with δ
                return forward(which, inputs)
        with tap.adding(delta.transpose(0, 1) if turned else delta):
            return forward(which, inputs)

    def run_unwrapped(delta: Tensor | None) -> Output:
        return run_on(unwrapped(model), delta)

    weight = getattr(tap.module, "weight", None)
    return ModelObjective(
        run=lambda delta: run_on(model, delta),
        x=embedding,
        mask=mask[..., None].expand(embedding.shape),
        model=model,
        seed=seed,
        backward_fn=backward,
        unsynced=unsynced or cast(NoSync, getattr(model, "no_sync", nullcontext)),
        passes=passes,
        generators=generators,
        labels=batch.get("labels"),
        loss_scale=loss_scale,
        memory=NoMemory() if memory is None else memory,
        outputs=lambda logits: kind_of(
            model,
            logits,
            batch.get("labels"),
            tokens=None if "start_positions" in batch else mask.shape[1],
        ),
        counted=_counted(batch, model, mask),
        share=share,
        table=weight if isinstance(weight, nn.Parameter) else None,
        ids=ids,
        first_block=lambda: _first_block(model, tap, run_unwrapped, first_block, generators),
    )


def _counted(batch: Mapping[str, Any], model: nn.Module, mask: Tensor) -> Tensor | None:
    """(B, T): tokens whose output the loss counts; without labels for tokens, the real ones."""
    if "start_positions" in batch:  # two distributions over tokens, none of them a token's own
        return None
    labels = batch.get("labels")
    if not isinstance(labels, Tensor) or labels.ndim != 2 or labels.is_floating_point():
        return mask != 0
    counted = labels != -100
    if _predicts_the_next(unwrapped(model)):
        counted = nn.functional.pad(counted[:, 1:], (0, 1))
    return counted


def _predicts_the_next(model: nn.Module) -> bool:
    pair = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return not pair and getattr(model, "loss_function", None) is ForCausalLMLoss


def _first_block(
    model: nn.Module,
    tap: EmbeddingTap,
    run: Callable[[Tensor | None], Output],
    name: str | None,
    generators: Sequence[Any],
) -> FirstBlock:
    model = unwrapped(model)
    if name is not None:
        try:
            tap.first_block = model.get_submodule(name)
        except AttributeError:
            raise UserError(
                f"The model has no module named {name!r} (--adv_first_block)."
            ) from None
    if tap.first_block is None:
        rewind = FrozenDropout(_device(model), generators)
        try:
            tap.first_block = find_first_block(model, lambda: run(None))
        finally:
            rewind.restore()
    if tap.first_block is None:
        raise UserError(
            f"The first block of {type(model).__name__} was not found; name it with `first_block` "
            f"(--adv_first_block)."
        )
    return FirstBlock(tap.first_block, run, blocks_after(model, tap.first_block))


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _is_turned(ids: Tensor, batch: Mapping[str, Any], model: nn.Module) -> bool:
    given = batch.get("input_ids")
    if given is None or given.ndim != 2 or ids.shape != given.T.shape:
        return False
    if ids.shape != given.shape:
        return True
    if torch.equal(given, given.T):  # a square batch that does not show which way it lies
        return getattr(getattr(unwrapped(model), "config", None), "model_type", "") == "xlnet"
    return torch.equal(ids, given.T)


def _is_shorter(attention: Tensor, ids: Tensor) -> bool:
    same_rows = attention.ndim == 2 and attention.shape[0] == ids.shape[0]
    return same_rows and attention.shape[1] < ids.shape[1]


def _token_mask(
    ids: Tensor, batch: Mapping[str, Any], special_ids: Sequence[int], model: nn.Module
) -> Tensor:
    """(B, T): 1 for real tokens, in the shape in which the embedding sees them."""
    mask: Tensor
    attention = batch.get("attention_mask")
    pad_id = getattr(getattr(unwrapped(model), "config", None), "pad_token_id", None)
    if attention is not None and attention.numel() == ids.numel():
        mask = attention.reshape(ids.shape) != 0  # multiple choice flattens its choices
    elif attention is not None and _is_shorter(attention, ids):  # Longformer pads to its window
        mask = nn.functional.pad(attention, (0, ids.shape[1] - attention.shape[1])) != 0
    elif attention is None and pad_id is not None:
        mask = ids != pad_id
    elif attention is None:
        mask = torch.ones_like(ids, dtype=torch.bool)
    else:
        raise UserError(
            f"The attention mask {tuple(attention.shape)} does not fit the ids that the embedding "
            f"receives, {tuple(ids.shape)}."
        )
    if special_ids:
        mask = mask & ~torch.isin(ids, torch.as_tensor(special_ids, device=ids.device))
    return mask
