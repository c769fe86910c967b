"""A model of images under attacks on their pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nlp_adv.attacks import PGD, Attack, Ladder, Measured, ladder
from nlp_adv.attacks.subject import Subject
from nlp_adv.errors import UserError
from nlp_adv.perturbation import Ball
from nlp_adv.robustness.curve import NORMS, CurveRequest
from nlp_adv.robustness.embedding import accuracies
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.evaluation import Attempt, Masking, environment, evaluated
from nlp_adv.robustness.fingerprint import attack_fingerprint, fingerprint
from nlp_adv.robustness.processes import ALONE, Processes
from nlp_adv.robustness.runners import Picture, PictureReader, PointRunner
from nlp_adv.robustness.statistics import norm_of
from nlp_adv.sites.normalisation import Classifier

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images (B, C, H, W) in [0, 1] and their right classes (B,)."""


def evaluate_images(
    model: Classifier,
    batches: Batches,
    attacks: Mapping[str, Attack] | Sequence[Attack] | Attack,
    *,
    restarts: int = 1,
    target: int | None = None,
    within: Ball | None = None,
    ids: Iterable[int] | None = None,
    output_dir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: str | None = None,
    examples: int | None = None,
    epsilons: Sequence[float] = (),
    checked: PGD | None = None,
    check_examples: int = 100,
    processes: Processes = ALONE,
) -> Evaluation:
    """Accuracy without attack, under each one, and in the worst case over all of them.

        evaluate_images(model, images.batches(64), [FGSM(8 / 255), PGD(…)], restarts=3)

    Each attack is run on every image that the model has right without it, whatever the other
    attacks did: so each number is the attack's own, and the worst case is read off all of them,
    image by image. Within an attack an image leaves with the first start that fools the model:
    later starts cost less, and the attack's number is that of all its starts together.

    With an `output_dir`, finished images are written to `records.jsonl` there at once, and a run
    that was killed goes on where it stopped.

    Args:
        model: pixels → logits; it is attacked where it is and left as it was.
        batches: gone through once.
        attacks: by name, or under the names that they have; one alone needs no list.
        restarts: starts of attacks that begin at random: seed, seed + 1, …
        target: class that the attacks lead to; images of that class are left out, there being
            nothing to do. None for any wrong answer.
        within: the ball in which a success counts against the accuracies, such as that of the
            other attacks where one looks for the smallest δ; any success counts without.
        ids: of the images in the data; 0, 1, … without.
        output_dir: where records are kept.
        settings: what belongs to this run besides model and attacks; a run with others does not
            continue it.
        progress: the title of a progress bar; none is shown without.
        examples: how many images there are, for the bar.
        epsilons: radii of a curve of accuracy over ε, for each attack: one in a ball is run once
            more, from the smallest radius up (see `attacks.ladder`), and one that seeks the
            smallest δ is read by its length, which takes `within`.
        checked: an attack to run the masking checks with; none are made without.
        check_examples: with the first so many images.
        processes: that share the batches, such as `launched()` finds; the main one returns the
            whole. Without, this one attacks all.

    Raises:
        UserError: nothing to attack, two attacks of one name, images or labels that do not fit, or
            a folder that cannot be used; what is finished is kept.
    """
    named, epsilons = _named(attacks), _radii(epsilons)
    if restarts < 1:
        raise UserError(f"restarts is {restarts}; an attack needs at least one start.")
    if checked is not None and (not isinstance(checked, PGD) or check_examples < 1):
        raise UserError(
            f"The masking checks vary a PGD on at least one image, not {checked} on "
            f"{check_examples}: give checked=PGD(…) and check_examples ≥ 1."
        )
    if epsilons and within is None and not all(map(in_ball, named.values())):
        raise UserError("The curve of an attack without a radius needs the ball to measure δ in.")
    reader, curves = PictureReader(model), _curves(named, epsilons, within)
    main = [
        PointRunner(started(one, restarts, name), reader, target) for name, one in named.items()
    ]
    aside = [
        PointRunner(ladder(named[name], epsilons, name=curve.attack), reader, target)
        for name, curve in curves.items()
        if in_ball(named[name])
    ]
    runners = [*main, *aside]
    run = Evaluation(
        hashes={name: attack_fingerprint(one, starts=restarts) for name, one in named.items()}
        | {one.name: attack_fingerprint(one.ladder) for one in aside},
        attacks={name: f"{attack}, {restarts} starts" for name, attack in named.items()},
        model=None if output_dir is None else _model_of(model),
        settings=settings or {},
        target=target,
        within=within,
        environment=environment(model) if isinstance(model, nn.Module) else {},
    )
    attempt = Attempt(
        run=run,
        runners=runners,
        reader=reader,
        chunks=_chunks(batches, ids, target),
        aside=frozenset(one.name for one in aside),
        curves=list(curves.values()),
        masking=None if checked is None else Masking(checked, check_examples),
        total=None if examples is None else examples * sum(len(one.radii) for one in runners),
    )
    found = evaluated(attempt, output_dir, progress=progress, processes=processes)
    if processes.main and not found.records:
        raise UserError("There are no images to attack; give images of other classes, or more.")
    return found


def in_ball(attack: Attack) -> bool:
    """It climbs a loss in a ball, and does not look for the smallest δ."""
    return getattr(attack, "ball", None) is not None


def _curves(
    named: Mapping[str, Attack], epsilons: Sequence[float], within: Ball | None
) -> dict[str, CurveRequest]:
    """By attack; radii in an L∞ ball are shown in grey levels."""
    found = {}
    for name, attack in named.items() if epsilons else ():
        ball = getattr(attack, "ball", None) or within
        assert ball is not None
        levels = norm_of(ball) == "linf"
        unit = "grey levels of 255" if levels else "pixels in [0, 1]"
        label, scale = f"ε, {NORMS[norm_of(ball)]}, {unit}", 255.0 if levels else 1.0
        if in_ball(attack):
            tried = f"{name} at {', '.join(f'{epsilon:.6g}' for epsilon in sorted(epsilons))}"
            found[name] = CurveRequest(attack=tried, title=name, x_label=label, scale=scale)
        else:
            found[name] = CurveRequest(
                attack=name, title=name, x_label=label, scale=scale, ball=ball, epsilons=epsilons
            )
    return found


def _chunks(
    batches: Batches, ids: Iterable[int] | None, target: int | None
) -> Iterator[list[Picture]]:
    """Each batch, without the images of the target."""
    numbers = count() if ids is None else iter(ids)
    for x, y in batches:
        yield [picture for picture in _pictures(x, y, numbers) if picture.label != target]


def epsilon_sweep(
    attack: Attack,
    model: Classifier,
    batches: Batches,
    epsilons: Sequence[float],
    *,
    target: int | None = None,
    progress: str | None = None,
) -> Measured:
    """Accuracy at several radii, by the least work that gives it; see `attacks.ladder`.

    Args:
        attack: what is tried; its own radius is not, unless it is among `epsilons`.
        model: pixels → logits.
        batches: images (B, C, H, W) in [0, 1] and right classes (B,); images that are wrong
            without attack are not attacked.
        epsilons: radii ≥ 0, in any order.
        target: class to reach, whose own images are left out; an image is robust where it is not
            reached.
        progress: the title of a progress bar; none is shown without.

    Raises:
        UserError: no images, or no radius that is finite and ≥ 0.
    """
    radii = _radii(epsilons)
    if not radii:
        raise UserError("A sweep needs radii that are finite and ≥ 0.")
    others = batches if target is None else ((x[y != target], y[y != target]) for x, y in batches)
    steps = ladder(attack, radii)
    return accuracies(Subject(model), others, steps, target=target, progress=progress)


def _radii(epsilons: Iterable[float]) -> tuple[float, ...]:
    """As numbers, of a list, an array or a tensor."""
    try:
        radii = () if isinstance(epsilons, str) else tuple(float(one) for one in epsilons)
    except (TypeError, ValueError):
        radii = (math.nan,)
    if isinstance(epsilons, str) or not all(0 <= one < math.inf for one in radii):
        raise UserError(f"epsilons are radii that are finite and ≥ 0, several, not {epsilons!r}.")
    return radii


def started(attack: Attack, restarts: int, name: str = "") -> Ladder:
    """An attack with so many seeds, where it begins at random; see `ladder`."""
    random = getattr(attack, "random_start", True)
    return ladder(attack, restarts=restarts if random else 1, name=name)


def _pictures(x: Tensor, y: Tensor, numbers: Any) -> list[Picture]:
    if not isinstance(y, Tensor) or y.ndim != 1:
        raise UserError(
            "A batch has images (B, C, H, W) and a tensor of labels (B,); one image alone is "
            "x[None], which is x.unsqueeze(0), and its label torch.tensor([y])."
        )
    ids = list(islice(numbers, len(x)))
    if len(ids) < len(x):
        raise UserError("There are more images than ids; give one an image.")
    if len(y) != len(x):
        raise UserError(f"Labels of shape {tuple(y.shape)} for {len(x)} images; give one an image.")
    return Picture.batch(ids, x, y)


def _named(attacks: Mapping[str, Attack] | Sequence[Attack] | Attack) -> dict[str, Attack]:
    if isinstance(attacks, Attack):
        attacks = [attacks]
    each = attacks.values() if isinstance(attacks, Mapping) else attacks
    for one in each:
        if not hasattr(one, "run"):
            raise UserError(f"Attacks on images are objects such as PGD(…), and {one!r} is none.")
    if isinstance(attacks, Mapping):
        named = dict(attacks)
    else:
        named = {attack.name: attack for attack in attacks}
        if len(named) < len(attacks):
            raise UserError(
                'Two attacks have one name; give them others: {"weak": …, "strong": …}.'
            )
    if not named:
        raise UserError("There is no attack; give at least one.")
    return named


def _model_of(model: Classifier) -> str | None:
    """Nothing is known of a mere function."""
    return fingerprint(model) if isinstance(model, nn.Module) else None
