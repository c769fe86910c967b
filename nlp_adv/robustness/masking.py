"""Checks against masking: may an accuracy under attack be called robustness?

A number is the model's only if the attack could see. `masking_checks` runs what is needed to tell,
on embeddings, layers and pixels alike; `checks_records` judges attacks by what they wrote down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from tqdm.auto import tqdm

from nlp_adv.attacks import FGM, PGD, Attack, Noise, Square
from nlp_adv.attacks.ladder import at_radius, ladder, radius_of
from nlp_adv.attacks.measured import Measured
from nlp_adv.attacks.region import norm_name
from nlp_adv.attacks.subject import Batch, Subject, device_of
from nlp_adv.errors import UserError
from nlp_adv.robustness.adaptive import GradientsWithin, check_adaptive
from nlp_adv.robustness.answers import Answers, check_answers
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks_alone import (
    check_ascent,
    check_confidence,
    check_probabilities,
    check_rounding,
    check_zero_gradients,
)
from nlp_adv.robustness.checks_masking import (
    check_beats,
    check_cross_entropy,
    check_large_radius,
    check_margin_scale,
    check_radii,
    check_restarts,
    check_softmax_scale,
    check_step_size,
    check_steps,
)
from nlp_adv.robustness.repeatable import check_repeatable, repeats
from nlp_adv.robustness.scaled_logits import softening_factor

FACTORS = (0.01, 30.0)  # on logits: 30 lets a usual model pass for robust, 0.01 takes that back
SOFT = 0.9  # mean confidence of calibrated logits: far from saturation, whatever the accuracy
CREEPING = 2.5  # ε/K: steps so short that they stop close behind the border of an answer
_RUNS = 16  # of `masking_checks`; one less where the logits need no calibration, and in L1
_UNSURE = 12  # the same where no softmax is looked at


def masking_checks(
    subject: Subject,
    batches: Iterable[Batch],
    attack: PGD,
    *,
    restarts: int = 3,
    draws: int = 10,
    queries: int = 200,
    classes: bool = True,
    progress: str | None = None,
) -> list[Check]:
    """What may speak against the accuracies under PGD and its kin in one ball.

    One run of the attack, on the margin and from the clean point, serves all checks; each adds the
    runs it compares it with. The confidence is that of the wrong answers at the moment of being
    fooled, under short steps: long ones end far behind the border. Where the model answers at
    random, no two accuracies can be compared, and that is all that is said.

    Args:
        subject: the model, and where δ enters it.
        batches: of labelled examples. A hundred examples show a masked model; to decide differences
            of one or two points it takes a thousand.
        attack: whose ball, step and number of steps are checked.
        restarts: starts of the run that is compared with one start, ≥ 2.
        draws: of random noise.
        queries: of a random search that asks for no gradient, `Square`; there is none in L1.
        classes: the logits are a classifier's, whose softmax is looked at too. Those of `Answering`
            are a judge's margin, of which a probability says nothing.
        progress: the title of a progress bar; none is shown without.

    Raises:
        UserError: no data, a radius of 0, a single start, or no single-label classifier.

    Cost: about 12 + restarts times the attack's own, and `queries` + `draws` forward passes.
    """
    data, epsilon = list(batches), radius_of(attack.ball)
    if not data or not 0 < epsilon < math.inf or restarts < 2:
        raise UserError(
            "The checks need examples, a finite radius above 0, and at least 2 restarts to compare."
        )
    climbing = replace(attack, loss="margin", random_start=False, until_fooled=True)
    ascending = replace(climbing, loss="cross_entropy")
    device, runs = device_of(subject.model), _RUNS if classes else _UNSURE
    cuda = device is not None and device.type == "cuda"
    with (
        torch.random.fork_rng([device] if cuda else []),
        tqdm(
            total=runs * len(data),
            desc=progress,
            disable=progress is None,
        ) as bar,
    ):

        def run(attack: Attack, factor: float = 1.0, starts: int = 1) -> Measured:
            # Each run leaves the random streams as they were; a model that draws in eval mode is to
            # draw something else in the next.
            torch.rand(2)
            torch.rand(2, device=device)
            chosen = ladder(attack, restarts=starts)
            return subject.measure(chosen, data, factor=factor, after_each=bar.update)

        given = run(climbing)
        softmax = [run(ascending)] if classes else []
        blind = [_blind(given, "margin"), *(_blind(one, "cross entropy") for one in softmax)]
        large = max(given.erasing, 2 * epsilon)
        at_large, at_half = run(at_radius(climbing, large)), run(at_radius(climbing, epsilon / 2))
        fewer = max(1, attack.steps // 2)
        # Steps that shorten cross the ball however few they are; others must be longer.
        longer = 1.0 if attack.shorten else attack.steps / fewer
        halved = run(replace(climbing, steps=fewer, step_size=longer * attack.step_size))
        short = CREEPING * epsilon / attack.steps
        creeping = run(replace(climbing, step_size=short))
        doubled = run(replace(climbing, step_size=2 * attack.step_size))
        several = run(climbing, starts=restarts)
        with GradientsWithin() as within:  # of which noise asks for none
            noise = run(Noise(attack.ball, draws, attack.seed, attack.unit))
        step = run(FGM(attack.ball, "margin", attack.unit))
        flat = norm_name(attack.ball) == "l1"  # where Square has no windows
        search = [] if flat else [run(Square(attack.ball, queries, unit=attack.unit))]
        simple = [step, noise, *search]
        compared = [*softmax, at_half, halved, creeping, doubled, several, *simple, at_large]
        repeatable = _repeatable(given, compared)
        if not repeatable.passed:
            bar.total = bar.n
            return [repeatable, check_adaptive(within.taken), *blind]
        soft = softening_factor(given.logits, SOFT) if classes else 1.0
        factors = (*FACTORS, soft) if soft < 1 else FACTORS
        bar.total -= ((soft >= 1 and classes) + flat) * len(data)
        said, labels = given.predictions.tolist(), given.labels.tolist()
        wrong = creeping.confidences[:, -1][creeping.fooled[:, -1]]
        right, survives = given.right, given.survives_8_bit[given.fooled[:, -1], -1]
        return [
            *([check_answers(Answers.of(said, labels))] if classes else []),
            *([check_probabilities(given.logits)] if classes else []),
            repeatable,
            check_adaptive(within.taken),
            check_large_radius(at_large),
            check_radii([at_half, given, at_large]),
            check_steps(halved, given, (fewer, attack.steps)),
            check_step_size(given, {short / attack.step_size: creeping, 2.0: doubled}),
            check_restarts(given, several, restarts),
            check_beats(given, step, "one step", "a single step"),
            check_beats(given, noise, "noise", f"the best of {draws} random directions"),
            *(
                check_beats(given, one, "black box", f"a random search of {queries} queries")
                for one in search
            ),
            *(check_cross_entropy(given, one) for one in softmax),
            *(
                check_softmax_scale(one, {factor: run(ascending, factor) for factor in factors})
                for one in softmax
            ),
            check_margin_scale(given, {one: run(climbing, one) for one in FACTORS}),
            *blind,
            *([check_confidence(given.clean_confidences.tolist(), wrong.tolist())] * classes),
            check_ascent(
                given.first_losses[right, -1].tolist(), given.last_losses[right, -1].tolist()
            ),
            *([check_rounding(survives.tolist())] if given.pictures else []),
        ]


def _blind(found: Measured, loss: str) -> Check:
    return check_zero_gradients(found.first_gradients[found.right].tolist(), loss)


def _repeatable(given: Measured, others: list[Measured]) -> Check:
    """Whether the model says the same in all runs, and in the first two passes of one."""
    differing = (one for one in others if not repeats(given.logits, one.logits))
    again = next(differing, others[0])
    found = check_repeatable(given.logits, again.logits)
    return found if answers_alike(given) else replace(found, passed=False)


def answers_alike(found: Measured) -> bool:
    """The pass of the first gradient, which is without δ, said what the one before it did.

    True where there was none.
    """
    looked = ~found.first_logits.isnan().any(1)
    if not looked.any():
        return True
    return repeats(found.logits[looked], found.first_logits[looked], found.resolution)
