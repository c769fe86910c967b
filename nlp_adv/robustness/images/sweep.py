"""Accuracy under an attack at growing radii, for little more than one of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from nlp_adv.attacks import FGM, FGSM, Attack
from nlp_adv.attacks.batch import image_batch
from nlp_adv.attacks.quiet import quiet
from nlp_adv.errors import UserError
from nlp_adv.robustness.curve import EpsilonSweep
from nlp_adv.robustness.images.running import CleanLook, clean_look
from nlp_adv.robustness.statistics import radius_of
from nlp_adv.sites.normalisation import Classifier

Found = tuple[Tensor, Tensor]  # of b images: (b, R) stood, (b,) gradient passes

__all__ = ["EpsilonSweep", "at_radius", "epsilon_sweep"]


def epsilon_sweep(
    attack: Attack,
    model: Classifier,
    batches: Iterable[tuple[Tensor, Tensor]],
    epsilons: Sequence[float],
    *,
    target: int | None = None,
    progress: str | None = None,
) -> EpsilonSweep:
    """Accuracy at several radii, by the least work that gives it.

    * One step (`FGM`, `FGSM`) has one direction for all radii: one gradient, and exactly what
      separate attacks find. An image may fall at a radius and stand at a larger one.
    * Other attacks in a ball go from the smallest radius up, and an image that fell is not tried
      at a larger one, whose ball holds the same δ; `until_fooled` is switched on where there is
      one. The step grows with the radius: α·ε/ε₀, α and ε₀ the attack's own.
    * An attack without a radius, which seeks the smallest δ, is run once: an image falls at ε where
      its δ is no longer than ε.

    Args:
        attack: what is tried; its own radius is not, unless it is among `epsilons`.
        model: pixels → logits.
        batches: images (B, C, H, W) in [0, 1] and right classes (B,); images that are wrong
            without attack are not attacked.
        epsilons: radii ≥ 0, in any order.
        target: class to reach, of which no image is; an image stands where it is not reached.
        progress: the title of a progress bar; none is shown without.

    Raises:
        UserError: no images, or no radius.
        ValueError: a radius that is none.
    """
    radii = tuple(sorted({float(epsilon) for epsilon in epsilons}))
    if not radii or not all(0 <= radius < math.inf for radius in radii):
        raise UserError(f"A sweep needs radii that are finite and ≥ 0, not {list(epsilons)}.")
    parts = []
    for x, y in tqdm(batches, desc=progress, disable=progress is None, unit="batch"):
        look = clean_look(model, x, y)
        stood = look.right[:, None].expand(-1, len(radii)).clone()
        passes = torch.zeros_like(look.y)
        if look.right.any():
            if isinstance(attack, (FGM, FGSM)):
                found = _from_one_gradient(attack, model, look.kept(), radii, target)
            elif getattr(attack, "ball", None) is not None:
                found = _ascending(attack, model, look.kept(), radii, target)
            else:
                found = _by_length(attack, model, look.kept(), radii, target)
            stood[look.right], passes[look.right] = found
        parts.append((look.right.cpu(), stood.cpu(), passes.cpu()))
    if not parts:
        raise UserError("There are no images to attack.")
    return EpsilonSweep(attack.name, radii, *map(torch.cat, zip(*parts, strict=True)))


def at_radius(attack: Any, epsilon: float) -> Attack:
    """The attack at another radius, its step in proportion.

    Raises:
        ValueError: the radius is none, or the attack has a step and no radius to measure it by.
    """
    changes: dict[str, Any] = {"ball": replace(attack.ball, epsilon=epsilon)}
    if hasattr(attack, "step_size"):
        own = radius_of(attack.ball)
        if own == 0 and epsilon > 0:
            raise ValueError("The attack's own radius is 0: there is no step to enlarge.")
        changes["step_size"] = attack.step_size * epsilon / own if own else 0.0
    found: Attack = replace(attack, **changes)
    return found


def _from_one_gradient(
    attack: FGM | FGSM,
    model: Classifier,
    look: CleanLook,
    radii: Sequence[float],
    target: int | None,
) -> Found:
    with quiet(model):
        batch = image_batch(model, look.x, look.y, target, None)
        results = attack.sweep(batch, radii)
    return torch.stack([~one.success for one in results], 1), results[0].gradient_passes


def _ascending(
    attack: Attack, model: Classifier, look: CleanLook, radii: Sequence[float], target: int | None
) -> Found:
    stood = look.right[:, None].expand(-1, len(radii)).clone()
    passes, rows = torch.zeros_like(look.y), torch.arange(len(look.y), device=look.y.device)
    for place, radius in enumerate(radii):
        if radius == 0 or not len(rows):
            continue
        at = _until_fooled(at_radius(attack, radius))
        result = at(model, look.x[rows], look.y[rows], target=target)
        stood[rows[result.success], place:] = False
        passes[rows] += result.gradient_passes
        rows = rows[~result.success]
    return stood, passes


def _by_length(
    attack: Attack, model: Classifier, look: CleanLook, radii: Sequence[float], target: int | None
) -> Found:
    result = attack(model, look.x, look.y, target=target)
    order = {"l2": 2.0, "linf": torch.inf, "l1": 1.0}[getattr(attack, "norm", "l2")]
    needed = torch.where(result.success, result.norm(order), torch.inf)
    # A δ that was made to be as long as ε may be longer by rounding.
    reach = torch.tensor(radii, dtype=needed.dtype, device=needed.device) * (1 + 1e-6)
    return needed[:, None] > reach, result.gradient_passes


def _until_fooled(attack: Any) -> Attack:
    can = is_dataclass(attack) and any(f.name == "until_fooled" for f in fields(attack))
    stopping: Attack = replace(attack, until_fooled=True) if can else attack
    return stopping
