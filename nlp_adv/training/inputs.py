"""What a Trainer's model is perturbed on: word embeddings or pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from nlp_adv.errors import UserError
from nlp_adv.methods import Modality
from nlp_adv.perturbation import ModelObjective
from nlp_adv.sites.embeddings import EmbeddingTap, embedding_tap
from nlp_adv.sites.normalisation import processor_statistics
from nlp_adv.sites.pixels import check_normalisation, image_objective
from nlp_adv.sites.text import text_objective


class Perturbed(Protocol):
    """Makes an objective of each micro-batch of a run."""

    def begin(self) -> None:
        """When the model is prepared and before anything has run."""
        ...

    def end(self) -> None:
        """Leave nothing in the model."""
        ...

    def objective(
        self, model: nn.Module, inputs: Mapping[str, Any], **options: Any
    ) -> ModelObjective:
        """The micro-batch as a function of δ; options are those that both kinds share."""
        ...


class Embeddings:
    """Text: δ goes on the output of the word embedding, through one hook for the whole run."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._tap: EmbeddingTap | None = None

    def begin(self) -> None:
        """Find the embedding, and hook it."""
        self.end()
        name = getattr(self._trainer.args, "adv_embedding", None)
        self._tap = embedding_tap(cast(nn.Module, self._trainer.model), name)
        self._tap.install()

    def end(self) -> None:
        """Remove the hook."""
        if self._tap is not None:
            self._tap.remove()
            self._tap = None

    def objective(
        self, model: nn.Module, inputs: Mapping[str, Any], **options: Any
    ) -> ModelObjective:
        """See `text_objective`."""
        if "input_ids" not in inputs:
            raise UserError(
                "Adversarial training perturbs the embeddings of input_ids; this batch holds only "
                f"{', '.join(inputs)}."
            )
        special_ids = self._special_ids()
        return text_objective(model, inputs, tap=self._tap, special_ids=special_ids, **options)

    def _special_ids(self) -> list[int]:
        if not getattr(self._trainer.args, "adv_exclude_special_tokens", False):
            return []
        ids = getattr(self._trainer.processing_class, "all_special_ids", None)
        if ids is None:
            raise UserError(
                "--adv_exclude_special_tokens needs the tokenizer: pass processing_class=tokenizer."
            )
        return list(ids)


class PixelInputs:
    """Images: δ goes on the pixels, whose normalisation the image processor knows."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._statistics: tuple[Tensor, Tensor] | None = None
        self._checked = False

    def begin(self) -> None:
        """Find mean and std.

        Raises:
            UserError: nobody knows them.
        """
        processor = self._trainer.processing_class
        if not hasattr(processor, "image_mean"):
            raise UserError(
                "Adversarial training on images measures ε in pixels of [0, 1], and needs to know "
                "how the images were normalised: pass processing_class=image_processor."
            )
        mean, std = processor_statistics(processor)
        self._statistics = torch.tensor(mean), torch.tensor(std)
        self._checked = False

    def end(self) -> None:
        """Nothing was left."""

    def objective(
        self, model: nn.Module, inputs: Mapping[str, Any], **options: Any
    ) -> ModelObjective:
        """See `image_objective`; the first batch is checked against mean and std."""
        assert self._statistics is not None
        mean, std = self._statistics
        if not self._checked:
            self._checked = True
            check_normalisation(inputs["pixel_values"], mean, std)
        return image_objective(model, inputs, mean=mean, std=std, **options)


def modality_of(model: Any) -> Modality:
    """ "image" for models whose main input is pixels, "text" for all others."""
    return "image" if getattr(model, "main_input_name", "") == "pixel_values" else "text"


def perturbed(trainer: Any) -> Perturbed:
    """What the trainer's model is perturbed on."""
    return PixelInputs(trainer) if modality_of(trainer.model) == "image" else Embeddings(trainer)
