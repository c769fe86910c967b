"""A minibatch as a function of δ, for methods: what a site's entry is in training."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from nlp_adv.columns import ADV_ROWS
from nlp_adv.errors import UserError
from nlp_adv.perturbation import (
    ForwardFn,
    Memory,
    ModelObjective,
    NoMemory,
    NoSync,
    kind_of,
    model_forward,
    unwrapped,
)
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.pairs import pairs_of
from nlp_adv.sites.pixels import PixelSite
from nlp_adv.sites.site import Site
from nlp_adv.sites.span import Span, predicts_the_next, span_mask, span_of
from nlp_adv.sites.taps import Tap


def objective(
    model: nn.Module,
    batch: Mapping[str, Any],
    site: Site | None = None,
    *,
    mask: Tensor | None = None,
    span: Span | None = None,
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
    reference: nn.Module | None = None,
) -> ModelObjective:
    """L(θ, x + δ, y), x the clean point of the batch at a site.

    In a loop of one's own:

        method = FreeLB(L2Ball(0.45), step_size=0.1, steps=3)
        site = LayerSite("bert.encoder.layer.3")
        for step, batch in enumerate(loader):
            method.step(objective(
                model, batch, site, backward=accelerator.backward, passes=method.passes, seed=step
            ))
            optimizer.step()
            optimizer.zero_grad()

    Args:
        model: a Hugging Face model, wrapped or not.
        batch: what its forward takes, labels included; it is not changed. A column "adv_mask" is
            a mask (see below), which the model does not see.
        site: where δ enters; the word embeddings without one. One site serves a whole run; hooks
            that are not installed are put in and out for each pass, which is wrong only under
            `torch.compile`.
        mask: the user's own, multiplied with the site's: 1 where δ may move, (B, T) for the tokens
            that the site's modules work on, or the shape of δ.
        span: of a language model's row, where δ may move: "prompt", "completion" or "all". The
            default is the prompt where the labels of a causal language model leave one out, and
            all elsewhere, or where a mask is given. A column "adv_mask" goes before it.
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
        reference: a frozen model to compare with, for methods that do (capo, rr), where it has
            no adapter that could be switched off.

    A batch with the column "adv_rows" holds pairs of completions: x is then that of the prompts,
    see `nlp_adv.sites.pairs`.

    Raises:
        UserError: model, batch, site and mask do not fit together, no token may move, or a method
            asks for a first block that is not found.

    Cost: of words, one embedding look-up; of a layer, the forward pass up to it; of pixels, none.
    """
    site = site or _default_site(model)
    about: dict[str, Any] = {"special_ids": special_ids, "generators": generators}
    pairs = None
    if ADV_ROWS in batch:
        about |= {"span": span, "mask": mask, "forward": forward, "reference": reference}
        pairs = pairs_of(model, batch, site, **about)
        entry = pairs.entry
    else:
        mask = _within_span(model, batch, span, mask)
        entry = site.enter(model, batch, mask=mask, forward=forward, **about)
    batch, tokens = entry.batch, entry.tokens
    spans = "start_positions" in batch  # two distributions over tokens, none of them a token's own
    width = None if spans or tokens is None else tokens.shape[-1]
    return ModelObjective(
        run=pairs.ordinary if pairs is not None else lambda delta: entry.run(model, delta),
        run_groups=cache(pairs.run) if pairs is not None else None,
        run_reference=pairs.reference if pairs is not None else None,
        run_hidden=pairs.run_hidden if pairs is not None else None,
        run_hidden_before=pairs.hidden_before if pairs is not None else None,
        pairs=len(pairs) if pairs is not None else 0,
        x=entry.x,
        mask=entry.mask,
        model=model,
        seed=seed,
        backward_fn=backward,
        unsynced=unsynced or cast(NoSync, getattr(model, "no_sync", nullcontext)),
        passes=passes,
        generators=generators,
        labels=batch.get("labels"),
        loss_scale=loss_scale,
        memory=NoMemory() if memory is None else memory,
        outputs=lambda logits: kind_of(model, logits, batch.get("labels"), tokens=width),
        counted=_counted(batch, unwrapped(model), tokens),
        texts=entry.texts,
        share=share,
        table=entry.table,
        ids=entry.ids,
        names=entry.segment_names,
        first_block=lambda: entry.first_block(unwrapped(model), first_block, generators),
        low=entry.low,
        high=entry.high,
        segments=entry.segments,
        run_rows=lambda kept: partial(entry.certain_rows(kept).run, model),
        prefix_once=lambda: entry.site.prefix_once(entry, model, generators),
    )


def text_objective(
    model: nn.Module, batch: Mapping[str, Any], *, tap: Tap | None = None, **options: Any
) -> ModelObjective:
    """`objective` on the word embeddings of a batch of text, (B, T, D).

        import torch
        from nlp_adv import FGM, L2Ball, text_objective
        from nlp_adv.data.text_demo import demo_model, demo_tokenizer

        texts = ["the plot is superb", "the acting is dreadful"]
        tokenizer = demo_tokenizer(texts)
        model = demo_model(tokenizer)
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        batch["labels"] = torch.tensor([1, 0])
        FGM(L2Ball(0.5)).step(text_objective(model, batch, seed=0))  # accumulates gradients

    Args:
        model, batch: see `objective`.
        tap: the installed hook of a training run, from `embedding_tap`.
        options: those of `objective`.
    """
    site = EmbeddingSite() if tap is None else EmbeddingSite.of(model, tap)
    return objective(model, batch, site, **options)


def image_objective(
    model: nn.Module, batch: Mapping[str, Any], *, mean: Tensor, std: Tensor, **options: Any
) -> ModelObjective:
    """`objective` on the pixels in [0, 1] of a batch of normalised images z = (x − mean)/std.

    BatchNorm's running statistics are those of the passes that θ is trained on; passes for δ alone
    leave them still.

        method = PGD(LInfBall(8 / 255), step_size=2 / 255, steps=7)
        method.step(image_objective(model, batch, mean=mean, std=std, seed=step))

    Args:
        model: a Hugging Face image classifier, wrapped or not.
        batch: what its forward takes: "pixel_values" (B, C, H, W), normalised, and labels.
        mean, std: of the normalisation, (C,) or (1,).
        options: those of `objective`; without `first_block`, yopo takes the first layer with
            weights that sees the images.
    """
    return objective(model, batch, PixelSite(mean, std), **options)


def _within_span(
    model: nn.Module, batch: Mapping[str, Any], span: Span | None, mask: Tensor | None
) -> Tensor | None:
    """The user's mask on the tokens of the span."""
    if span is None and mask is not None:
        return mask
    own = span_mask(model, batch, span_of(model, batch, span))
    if own is None or mask is None:
        return mask if own is None else own
    return mask.to(own.device) * (own if mask.shape == own.shape else own[..., None])


def _default_site(model: nn.Module) -> Site:
    if getattr(unwrapped(model), "main_input_name", "") == "pixel_values":
        raise UserError(
            "δ on images is measured in pixels of [0, 1], and how they were normalised is not "
            "known: give site=PixelSite(mean, std), or LayerSite(NAME)."
        )
    return EmbeddingSite()


def _counted(batch: Mapping[str, Any], model: nn.Module, tokens: Tensor | None) -> Tensor | None:
    """What the loss counts: (B, T), tokens, without labels for them the real ones; or pixels."""
    if "start_positions" in batch:
        return None
    labels = batch.get("labels")
    whole = isinstance(labels, Tensor) and not labels.is_floating_point()
    if isinstance(labels, Tensor) and whole and labels.ndim == 3:  # a map of classes
        config = getattr(model, "config", None)
        return (labels != getattr(config, "semantic_loss_ignore_index", -100)) & (labels != -100)
    if tokens is None or not isinstance(labels, Tensor) or not whole or labels.ndim != 2:
        return tokens
    counted = labels != -100
    return nn.functional.pad(counted[:, 1:], (0, 1)) if predicts_the_next(model) else counted
