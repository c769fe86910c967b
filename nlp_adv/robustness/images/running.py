"""One attack on one batch of images, as records; what all of the evaluation is made of."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.attacks import Attack, AttackResult
from nlp_adv.attacks.batch import image_batch
from nlp_adv.attacks.quiet import quiet
from nlp_adv.perturbation.evaluating import answers
from nlp_adv.robustness.record import Point, Record
from nlp_adv.sites.normalisation import Classifier

_OF_A_POINT = {one.name for one in fields(Point)}


@dataclass(frozen=True)
class CleanLook:
    """Images on the model's device, and what it says of them without attack.

    Attributes:
        x, y: images (B, …) and right classes (B,).
        logits: (B, K).
        right: (B,), the answer is the right class.
    """

    x: Tensor
    y: Tensor
    logits: Tensor
    right: Tensor

    def rows(self, kept: Sequence[int] | Tensor) -> CleanLook:
        """Some of the images."""
        rows = torch.as_tensor(kept, device=self.x.device)
        return CleanLook(self.x[rows], self.y[rows], self.logits[rows], self.right[rows])

    def kept(self) -> CleanLook:
        """Those that are right."""
        return self.rows(self.right)


def clean_look(model: Classifier, x: Tensor, y: Tensor) -> CleanLook:
    """What the model says of images.

    Raises:
        UserError: images, labels or logits that an attack could not work with.

    Cost: one forward pass.
    """
    device = device_of(model) or x.device
    with quiet(model):
        batch = image_batch(model, x.to(device), y.to(device), None, None)
        with torch.no_grad():
            logits = batch.logits(batch.x)
    return CleanLook(batch.x, batch.y, logits, answers(logits) == batch.y)


def device_of(model: Classifier) -> torch.device | None:
    """Where a model's parameters are; None of a function, or a model without any."""
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), None)


def restarted(attack: Attack, restarts: int) -> list[Attack]:
    """The attack with seeds seed, seed + 1, …; once where nothing in it is random."""
    has_seed = is_dataclass(attack) and any(field.name == "seed" for field in fields(attack))
    if not has_seed or not getattr(attack, "random_start", True):
        return [attack]
    seed: int = attack.seed  # type: ignore[attr-defined]
    return [_replaced(attack, seed=seed + number) for number in range(restarts)]


def run_attack(
    attacks: Sequence[Attack],
    model: Classifier,
    look: CleanLook,
    *,
    name: str,
    ids: Sequence[int],
    pixels: Sequence[str],
    target: int | None = None,
) -> list[Record]:
    """Attack a batch once from each start; an image leaves with the first that fools the model.

    Args:
        attacks: one attack with several seeds.
        model: pixels → logits.
        look: at the images.
        name: of the attack in the records.
        ids, pixels: of the images, their numbers in the data, and hashes.
        target: class to reach; None for any wrong answer.
    """
    said, sure = answers(look.logits), look.logits.softmax(1).amax(1)
    records = [
        Record(
            id=number,
            attack=name,
            epsilon=epsilon_of(attacks[0]),
            example=digits,
            label=int(label),
            prediction=int(answer),
            adversarial_prediction=int(answer),
            confidence=float(confidence),
            adversarial_confidence=float(confidence),
            outcome="wrong",
            found=Point(l2=0.0, linf=0.0, l1=0.0, l0=0.0, survives_8_bit=False),
        )
        for number, digits, label, answer, confidence in zip(
            ids, pixels, look.y, said, sure, strict=True
        )
    ]
    live = look.right.nonzero().flatten()
    for attack in attacks:
        if not len(live):
            break
        result = attack(model, look.x[live], look.y[live], target=target)
        for row, found in zip(live.tolist(), _tried(result), strict=True):
            found["gradient_passes"] += getattr(records[row].found, "gradient_passes", 0)
            own = {name: found.pop(name) for name in list(found) if name in _OF_A_POINT}
            records[row] = replace(records[row], **found, found=Point(**own))
        live = live[~result.success]
    return records


def digits_of(x: Tensor) -> list[str]:
    """12 hexadecimal digits of each image's hash."""
    rows = [row.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() for row in x]
    return [hashlib.blake2b(content, digest_size=6).hexdigest() for content in rows]


def epsilon_of(attack: Attack) -> float | None:
    """The radius; None of an attack that looks for the smallest δ."""
    ball = getattr(attack, "ball", None)
    own = getattr(attack if ball is None else ball, "epsilon", None)
    return None if own is None else float(torch.as_tensor(own, dtype=torch.float64).max())


def _tried(result: AttackResult) -> list[dict[str, Any]]:
    """What is new in the records of images after one more start."""
    delta, losses = result.delta.flatten(1), result.losses.cpu()
    seen = [column[~column.isnan()].tolist() for column in losses.unbind(1)]
    columns = {
        "adversarial_prediction": result.answers.tolist(),
        "adversarial_confidence": result.confidences.tolist(),
        "outcome": ["fooled" if fooled else "robust" for fooled in result.success.tolist()],
        "survives_8_bit": (result.success & result.survives_8_bit).tolist(),
        "l2": torch.linalg.vector_norm(delta, dim=1).tolist(),
        "linf": delta.abs().amax(1).tolist(),
        "l1": delta.abs().sum(1).tolist(),
        "l0": (delta != 0).sum(1).double().tolist(),
        "gradient_passes": result.gradient_passes.tolist(),
        "first_gradient": [0.0 if blind else math.nan for blind in result.zero_gradients.tolist()],
        "first_loss": [line[0] if line else math.nan for line in seen],
        "last_loss": [line[-1] if line else math.nan for line in seen],
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _replaced(attack: Any, **changes: Any) -> Any:
    return replace(attack, **changes)
