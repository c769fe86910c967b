"""A model of images under attacks: run, written down as it goes, and taken up again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from tqdm.auto import tqdm

from nlp_adv.attacks import Attack
from nlp_adv.errors import UserError
from nlp_adv.perturbation import Ball
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.fingerprint import attack_fingerprint, fingerprint
from nlp_adv.robustness.images.running import (
    clean_look,
    digits_of,
    epsilon_of,
    restarted,
    run_attack,
)
from nlp_adv.robustness.store import Store
from nlp_adv.sites.normalisation import Classifier

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images (B, C, H, W) in [0, 1] and their right classes (B,)."""


def evaluate_images(
    model: Classifier,
    batches: Batches,
    attacks: Mapping[str, Attack] | Sequence[Attack],
    *,
    restarts: int = 1,
    target: int | None = None,
    within: Ball | None = None,
    ids: Iterable[int] | None = None,
    output_dir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: str | None = None,
    examples: int | None = None,
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
        attacks: by name, or under the names that they have.
        restarts: starts of attacks that have a seed: seed, seed + 1, …
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

    Raises:
        UserError: nothing to attack, two attacks of one name, images or labels that do not fit, or
            a folder that cannot be used; what is finished is kept.
    """
    named = _named(attacks)
    if restarts < 1:
        raise UserError(f"restarts is {restarts}; an attack needs at least one start.")
    run = Evaluation(
        hashes={name: attack_fingerprint(one, starts=restarts) for name, one in named.items()},
        attacks={name: f"{attack}, {restarts} starts" for name, attack in named.items()},
        model=None if output_dir is None else _model_of(model),
        settings=settings or {},
        target=target,
        within=within,
    )
    numbers, seen = count() if ids is None else iter(ids), set[int]()
    total = None if examples is None else examples * len(named)
    with (
        Store(run, output_dir) as store,
        tqdm(total=total, desc=progress, unit="image", disable=progress is None) as bar,
    ):
        for x, y in batches:
            if not isinstance(y, Tensor) or y.ndim != 1:
                raise UserError(
                    "A batch has images (B, C, H, W) and a tensor of labels (B,); one image alone "
                    "is x[None], which is x.unsqueeze(0), and its label torch.tensor([y])."
                )
            chosen = list(islice(numbers, len(x)))
            if len(chosen) < len(x):
                raise UserError("There are more images than ids; give one an image.")
            left_out = 0
            if target is not None:
                kept = (y != target).nonzero().flatten()
                left_out, chosen = len(x) - len(kept), [chosen[row] for row in kept.tolist()]
                x, y = x[kept], y[kept]
            bar.update(left_out * len(named))
            if chosen:
                _attack_batch(model, x, y, chosen, named, restarts, target, store, bar)
            seen.update(chosen)
        found = store.records(list(named), seen)
    if not found:
        raise UserError("There are no images to attack; give images of other classes, or more.")
    evaluation = replace(run, records=tuple(found))
    if evaluation.unanswered == evaluation.examples:
        raise UserError(
            "The model cannot be evaluated: it answers every image with inf or nan. Its training "
            "has diverged, or its precision is too low: try float32."
        )
    return evaluation


def _attack_batch(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    ids: Sequence[int],
    attacks: Mapping[str, Attack],
    restarts: int,
    target: int | None,
    store: Store,
    bar: Any,
) -> None:
    """What is not in the store yet."""
    pixels, look = digits_of(x), None
    for name, attack in attacks.items():
        bar.set_postfix_str(name, refresh=False)
        known = zip(ids, pixels, y.tolist(), strict=True)
        waiting = [
            row
            for row, one in enumerate(known)
            if store.find(name, epsilon_of(attack), *one) is None
        ]
        if waiting:
            look = clean_look(model, x, y) if look is None else look
            for record in run_attack(
                restarted(attack, restarts),
                model,
                look.rows(waiting),
                name=name,
                ids=[ids[row] for row in waiting],
                pixels=[pixels[row] for row in waiting],
                target=target,
            ):
                store.add(record)
        bar.update(len(ids))


def _named(attacks: Mapping[str, Attack] | Sequence[Attack]) -> dict[str, Attack]:
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
