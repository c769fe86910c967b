"""Where a Trainer's model is perturbed, and what of a batch only the perturbation sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from nlp_adv.errors import UserError
from nlp_adv.methods import Method, Modality, bare
from nlp_adv.perturbation import ModelObjective
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.layer import blocks_of
from nlp_adv.sites.modules import ModuleSite
from nlp_adv.sites.normalisation import processor_statistics
from nlp_adv.sites.objective import objective
from nlp_adv.sites.parse import parse_site
from nlp_adv.sites.pixels import PixelSite, check_normalisation
from nlp_adv.sites.site import Site


class Perturbed:
    """Makes an objective of each micro-batch of a run, at one site.

    Args:
        trainer: the Trainer; its model, arguments and `processing_class` say which site.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._site: Site | None = None
        self._checked = False

    def begin(self) -> None:
        """Find the site and hook it, when the model is prepared and before anything has run."""
        self.end()
        self._site, self._checked = self._find(), False
        self._site.install(cast(nn.Module, self._trainer.model))

    def end(self) -> None:
        """Leave nothing in the model."""
        if self._site is not None:
            self._site.remove()
            self._site = None

    def objective(
        self, model: nn.Module, inputs: Mapping[str, Any], **options: Any
    ) -> ModelObjective:
        """The micro-batch as a function of δ; options are those of `sites.objective`."""
        assert self._site is not None
        if isinstance(self._site, PixelSite):
            if not self._checked:
                self._checked = True
                site = self._site
                check_normalisation(inputs["pixel_values"], site.mean, site.std)
            return objective(model, inputs, self._site, **options)
        return objective(model, inputs, self._site, special_ids=self._special_ids(), **options)

    def _find(self) -> Site:
        trainer = self._trainer
        site = module_site(trainer.args)
        if site is not None:
            return site
        text = site_text(trainer.args, trainer.attack_schedule.method, trainer.model)
        if text is not None:
            return cast(Site, parse_site(text))
        if modality_of(self._trainer.model) == "text":
            return EmbeddingSite()
        processor = self._trainer.processing_class
        if not hasattr(processor, "image_mean"):
            raise UserError(
                "Adversarial training on images measures ε in pixels of [0, 1], and needs to know "
                "how the images were normalised: pass processing_class=image_processor."
            )
        mean, std = processor_statistics(processor)
        return PixelSite(torch.tensor(mean), torch.tensor(std))

    def _special_ids(self) -> list[int]:
        if not getattr(self._trainer.args, "adv_exclude_special_tokens", False):
            return []
        ids = getattr(self._trainer.processing_class, "all_special_ids", None)
        if ids is None:
            raise UserError(
                "--adv_exclude_special_tokens needs the tokenizer: pass processing_class=tokenizer."
            )
        return list(ids)


def module_site(args: Any) -> ModuleSite | None:
    """The site of --adv_site or --adv_embedding; None where the model's own input is perturbed.

    Raises:
        UserError: both are given, or the text names no site.
    """
    text, embedding = (getattr(args, name, None) for name in ("adv_site", "adv_embedding"))
    if text and embedding:
        raise UserError(
            f"--adv_site {text} and --adv_embedding {embedding} both say where δ enters; give one "
            f"(--adv_site embedding:{embedding} is the second)."
        )
    if embedding:
        return EmbeddingSite(embedding)
    return parse_site(text) if text else None


def site_text(args: Any, method: Method, model: nn.Module) -> str | None:
    """--adv_site, or the site of a method that has one by itself; None of the model's own input.

    Raises:
        UserError: the method's site is at numbered blocks, which the model does not have.
    """
    named: str | None = getattr(args, "adv_site", None)
    depths = getattr(bare(method), "depths", ())
    if named or not depths or getattr(args, "adv_embedding", None):
        return named
    count = len(blocks_of(model))
    numbers = sorted({max(0, round(depth * count) - 1) for depth in depths})
    return ",".join(["embedding", *(f"layer:{number}" for number in numbers)])


def check_site(model: nn.Module, args: Any) -> None:
    """Refuse a site that the model does not have, before anything is trained.

    Raises:
        UserError: it has no such module, or does not say which its word embedding is.
    """
    site = module_site(args) or (EmbeddingSite() if modality_of(model) == "text" else None)
    if site is not None:
        site.taps(model)
        site.remove()


def modality_of(model: Any) -> Modality:
    """ "image" for models whose main input is pixels, "text" for all others."""
    return "image" if getattr(model, "main_input_name", "") == "pixel_values" else "text"


def scale_of(model: Any, args: Any) -> Modality:
    """Whose presets fit: pixels have lengths of their own, hidden states those of embeddings."""
    return "text" if module_site(args) is not None else modality_of(model)
