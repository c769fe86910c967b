"""Pixels in [0, 1]: the unit of every image attack. Normalisation belongs inside the model.

    z = (x − mean) / std,   x ∈ [0, 1] of shape (B, C, H, W), mean and std per channel

An ε is then a share of the pixel range (8/255 is eight grey levels), whatever the model was
normalised with, and the box [0, 1] is the same for all models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.errors import UserError

Classifier = Callable[[Tensor], Any]
"""Pixels (B, C, H, W) → logits (B, K), or an output that has them as `.logits`."""


class Pixels(nn.Module):
    """A classifier of normalised images, as a classifier of pixels in [0, 1].

        model = Pixels(AutoModelForImageClassification.from_pretrained(…), mean, std)
        model = Pixels.from_processor(model, AutoImageProcessor.from_pretrained(…))

    Args:
        model: takes normalised images (B, C, H, W).
        mean, std: of its normalisation, a number or one a channel.

    Raises:
        UserError: a std that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", _per_channel(mean))
        self.register_buffer("std", _per_channel(std))
        if not (self.std > 0).all():
            raise UserError(f"std must be positive in every channel, not {std}.")

    @classmethod
    def from_processor(cls, model: nn.Module, processor: Any) -> Pixels:
        """Normalised as a Hugging Face image processor does it: rescaling, offset, mean and std.

        Resizing and cropping are not part of it: attack images that have been through them.
        """
        mean, std = processor_statistics(processor)
        return cls(model, mean, std)

    def normalize(self, x: Tensor) -> Tensor:
        """(x − mean) / std."""
        return (x - self.mean.to(x)) / self.std.to(x)

    def pixels(self, z: Tensor) -> Tensor:
        """The inverse: z·std + mean, clamped to [0, 1] against rounding."""
        return (z * self.std.to(z) + self.mean.to(z)).clamp(0, 1)

    def forward(self, x: Tensor) -> Any:
        """What the model says of pixels x."""
        return self.model(self.normalize(x))


def processor_statistics(processor: Any) -> tuple[list[float], list[float]]:
    """Mean and std by which an image processor takes pixels in [0, 1] to what its model sees.

    A processor sees 255·x: with a factor f and an offset o, z = (255·f·x − o − mean) / std.
    """
    scale = 255 * processor.rescale_factor if getattr(processor, "do_rescale", True) else 255.0
    offset = 1.0 if getattr(processor, "rescale_offset", False) else 0.0
    mean, std = [0.0], [1.0]
    if getattr(processor, "do_normalize", False):
        mean, std = list(processor.image_mean), list(processor.image_std)
    return [(offset + m) / scale for m in mean], [s / scale for s in std]


_ROUNDING = 1e-6  # of pixels in float32, by arithmetic of a few operations


def check_pixels(x: Tensor) -> Tensor:
    """An image batch in [0, 1], or a refusal of what is none.

    z·std + mean of a normalised image is off by a rounding error: what is outside by no more than
    10⁻⁶ (in half precision, by what it resolves) is brought back.

    Raises:
        UserError: with the smallest and the largest value, and what to do.
    """
    if not isinstance(x, Tensor) or x.ndim < 2:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise UserError(f"Images must be a tensor of shape (B, C, H, W), not {shape}.")
    if x.numel() == 0:
        raise UserError(f"There are no pixels in a batch of shape {tuple(x.shape)}.")
    low, high = x.min().item(), x.max().item()
    if not x.is_floating_point():
        raise UserError(
            f"Images are {str(x.dtype).removeprefix('torch.')} from {low} to {high}; pixels must "
            f"be floating-point numbers in [0, 1]: pass x.float() / 255."
        )
    slack = max(_ROUNDING, torch.finfo(x.dtype).eps)
    if low >= -slack and high <= 1 + slack:  # false for nan as well
        return x.clamp(0, 1)
    if low < 0:
        fix = (
            "normalised images must be brought back, z·std + mean, and the normalisation put "
            "inside the model: Pixels(model, mean, std)"
        )
    elif high <= 255:
        fix = "divide by 255"
    else:
        fix = "bring them there, or look for inf and nan"
    raise UserError(f"Pixels are from {low:.4g} to {high:.4g}, not in [0, 1]: {fix}.")


def parse_epsilon(text: str | float) -> float:
    """A radius in pixels, also written as a fraction: "8/255".

    Raises:
        UserError: not a number ≥ 0.
    """
    try:
        value = float(Fraction(text)) if isinstance(text, str) else float(text)
    except (ValueError, ZeroDivisionError):
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise UserError(f"A radius is a number ≥ 0 in pixels, such as 0.03 or 8/255, not {text!r}.")
    return value


def logits_of(output: Any) -> Tensor:
    """Logits (B, K), float32 or wider, of what a classifier returned.

    Raises:
        UserError: there are none.
    """
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise UserError(
            f"An image attack needs logits of shape (B, K), K ≥ 2, and the model returned {shape}."
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _per_channel(value: float | Sequence[float]) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
