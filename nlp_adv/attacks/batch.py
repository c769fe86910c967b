"""A batch of images under attack: what the model says of them, and which way is up."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nlp_adv.attacks.losses import RowLoss
from nlp_adv.errors import UserError
from nlp_adv.perturbation import Ball, L1Ball, LInfBall, WithinBox
from nlp_adv.perturbation.evaluating import answers, divergence_found
from nlp_adv.sites.normalisation import Classifier, check_pixels, logits_of


@dataclass(frozen=True)
class ImageBatch:
    """Images, what they are to be taken for or not, and the model that looks at them.

    Attributes:
        model: pixels → logits.
        x: the images (B, …) in [0, 1], float32 or wider.
        y: (B,), the right class, or the target.
        towards: y is a target.
        mask: 1 where a pixel may change, the shape of x.
        whole: it is 1 everywhere, and need not be applied.
    """

    model: Classifier
    x: Tensor
    y: Tensor
    towards: bool
    mask: Tensor
    whole: bool = False

    def __len__(self) -> int:
        return len(self.x)

    def logits(self, adv: Tensor) -> Tensor:
        """Logits (B, K) of other images in the place of x, with a graph to them.

        Raises:
            UserError: the model returns no logits, or not one row an image.
        """
        logits = logits_of(self.model(adv.to(_input_dtype(self.model, adv))))
        if len(logits) != len(adv):
            raise UserError(f"The model returned {len(logits)} answers to {len(adv)} images.")
        return logits

    def gradient(self, adv: Tensor, loss: RowLoss) -> tuple[Tensor, Tensor, Tensor]:
        """∇ of the loss at `adv` (0 where a pixel may not change), the losses (B,), the logits.

        Cost: one forward and half a backward pass.
        """
        leaf, logits = self.watched(adv)
        losses = loss(logits, self.y, self.towards)
        (grad,) = torch.autograd.grad(losses.sum(), leaf)
        return self.free(grad), losses.detach(), logits.detach()

    def watched(self, adv: Tensor) -> tuple[Tensor, Tensor]:
        """A leaf that holds `adv`, and the logits with a graph to it."""
        leaf = adv.detach().requires_grad_()
        logits = self.logits(leaf)
        if not logits.requires_grad:
            raise UserError(
                "The logits do not depend on the pixels: the model works without gradients."
            )
        return leaf, logits

    def free(self, grad: Tensor) -> Tensor:
        """0 where a pixel may not change, whatever stands there."""
        return grad if self.whole else torch.where(self.mask != 0, grad, 0.0)

    def held(self, adv: Tensor) -> Tensor:
        """x itself where a pixel may not change."""
        return adv if self.whole else torch.where(self.mask != 0, adv, self.x)

    def fooled(self, logits: Tensor) -> Tensor:
        """(B,): the answer is the target, or is not the right one; see `answers` for ties."""
        says = answers(logits) == self.y
        return says if self.towards else ~says

    def direction(self, grad: Tensor, adv: Tensor, ball: Ball) -> Tensor:
        """The gradient that a step from `adv` goes by: in L1, without what the box holds fast.

        An L1 step moves few pixels; those that are at their end would be moved in vain.
        """
        if not isinstance(ball, L1Ball):
            return grad
        held = ((adv >= 1) & (grad > 0)) | ((adv <= 0) & (grad < 0))
        return torch.where(held, 0.0, grad)

    def rows(self, kept: Tensor) -> ImageBatch:
        """Some of the images; `kept` is a mask or indices."""
        return replace(self, x=self.x[kept], y=self.y[kept], mask=self.mask[kept])

    def in_box(self, ball: Ball) -> WithinBox:
        """The ball met with 0 ≤ x + δ ≤ 1, and δ = 0 where a pixel may not change."""
        return WithinBox(ball, -self.x * self.mask, (1 - self.x) * self.mask)

    def moved(self, delta: Tensor, ball: Ball | None = None) -> Tensor:
        """x + δ, in [0, 1] to the last bit, and x itself where a pixel may not change.

        Rounding x + δ can end a last bit outside an L∞ ball; with the ball given it does not.
        """
        adv = self.held((self.x + delta).clamp(0, 1))
        if isinstance(ball, LInfBall):
            radius = torch.as_tensor(ball.epsilon, device=adv.device).double()
            outside = (adv.double() - self.x.double()).abs() > radius
            adv = torch.where(outside, torch.nextafter(adv, self.x), adv)
        return adv

    def random_start(self, ball: Ball, seed: int) -> Tensor:
        """A δ uniform in the ball for each image, drawn from the image and the seed.

        So the start belongs to the image: batch size and order change nothing.

        Raises:
            UserError: a radius of inf, in which nothing is uniform.
        """
        if not torch.isfinite(torch.as_tensor(ball.epsilon)).all():
            raise UserError("A random start needs a finite radius; use random_start=False.")
        unit = replace(ball, epsilon=1.0)  # type: ignore[type-var]
        starts = []
        for row, mask in zip(self.x, self.mask, strict=True):
            content = row.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            digest = hashlib.blake2b(content, digest_size=7, salt=str(seed).encode()[:16]).digest()
            generator = torch.Generator(row.device).manual_seed(int.from_bytes(digest, "big"))
            starts.append(unit.sample(mask[None], generator))
        return self.in_box(ball).project(ball.epsilon * torch.cat(starts))


def image_batch(
    model: Classifier,
    x: Tensor,
    y: Tensor | int | None,
    target: Tensor | int | None,
    mask: Tensor | None,
) -> ImageBatch:
    """The batch that an attack was called with, checked; to be made inside `quiet(model)`.

    Args:
        model: pixels → logits.
        x: images (B, …) in [0, 1].
        y: right classes (B,), any integer type; without y and target, what the model answers.
        target: classes to reach, (B,) or one for all; then y is not used.
        mask: 1 where a pixel may change, broadcast against x.

    Raises:
        UserError: what is wrong, and the way out.
    """
    x = check_pixels(x).detach().clone().to(torch.promote_types(x.dtype, torch.float32))
    free = torch.ones_like(x) if mask is None else _mask(mask, x)
    unlabelled = torch.zeros(len(x), dtype=torch.long)
    batch = ImageBatch(model, x, unlabelled, target is not None, free, whole=mask is None)
    if isinstance(model, nn.Module):
        device = next((p.device for p in model.parameters()), x.device)
        if device != x.device:
            raise UserError(f"The images are on {x.device} and the model is on {device}.")
        if (refusal := divergence_found(model)) is not None:
            raise UserError(refusal)
    with torch.no_grad():
        logits = _first_logits(batch, x[:1] if y is not None or target is not None else x)
    given = target if target is not None else y
    labels = logits.argmax(1) if given is None else _labels(given, x, logits.shape[1])
    return replace(batch, y=labels)


def _first_logits(batch: ImageBatch, x: Tensor) -> Tensor:
    """What the model says at its first look, where a single image is found out."""
    try:
        return batch.logits(x)
    except Exception as error:  # a model says in its own way that it wants a batch
        if _is_one_image(batch):
            shape = tuple(batch.x.shape)
            raise UserError(
                f"{shape} is the shape of one image, and the model takes batches: pass x[None], "
                f"which is x.unsqueeze(0), of shape {(1, *shape)}, and a label of shape (1,)."
            ) from error
        raise


def _is_one_image(batch: ImageBatch) -> bool:
    """Whether the model takes x as a batch of one image, which it is not."""
    try:
        return batch.logits(batch.x[None]) is not None
    except Exception:  # then that is not what is wrong
        return False


def _labels(given: Tensor | int, x: Tensor, classes: int) -> Tensor:
    if isinstance(given, Tensor) and (given.is_floating_point() or given.dtype == torch.bool):
        raise UserError(f"Labels are classes, integers, not {given.dtype}.")
    labels = torch.as_tensor(given, device=x.device).long()
    if labels.ndim == 0:
        labels = labels.expand(len(x))
    if labels.shape != x.shape[:1]:
        raise UserError(
            f"Labels of shape {tuple(labels.shape)} for {len(x)} images; give one an image."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(f"Labels are from {low} to {high}, and the model has {classes} classes.")
    return labels.clone()


def _mask(mask: Tensor, x: Tensor) -> Tensor:
    try:
        free = torch.broadcast_to(mask.to(x.device), x.shape) != 0
    except RuntimeError:
        raise UserError(
            f"A mask of shape {tuple(mask.shape)} does not fit images of shape {tuple(x.shape)}."
        ) from None
    return free.to(x.dtype)


def _input_dtype(model: Classifier, x: Tensor) -> torch.dtype:
    """A model in half precision, or in double, takes images of its own type."""
    if not isinstance(model, nn.Module):
        return x.dtype
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype)
