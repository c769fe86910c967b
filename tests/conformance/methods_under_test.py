"""Every method that must pass the contracts. A new method is one entry in the first list."""

from dataclasses import dataclass, replace

import pytest
from targets import TARGETS, TEXT_TARGETS

from nlp_adv.methods import (
    FGM,
    FGSM,
    PGD,
    FGMMatrix,
    FreeLB,
    Method,
    NoAttack,
    Noise,
    Scaled,
)
from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall


@dataclass(frozen=True)
class Case:
    """A method and which contracts have an exception for it.

    Args:
        id: its name in the test's id.
        method: a configuration; lengths are absolute, word vectors have a norm of about 1.
        couples_examples: one norm covers the batch, so contract 3 cannot hold.
        text_only: it perturbs the embedding matrix, or each token.
        finds_maximum: with enough steps, `report.adversarial` is the maximum over the ball.
    """

    id: str
    method: Method
    couples_examples: bool = False
    text_only: bool = False
    finds_maximum: bool = False

    @property
    def moves_delta(self) -> bool:
        return hasattr(self.method, "ball")

    def runs_on(self, target) -> bool:
        """Changes of unit are the same code everywhere: one target of each shape will do."""
        if isinstance(self.method, Scaled) and target not in (TARGETS[0], TARGETS[-1]):
            return False
        return target in TEXT_TARGETS or not self.text_only


l2, linf, l1, tokens = L2Ball(0.8), LInfBall(0.1), L1Ball(0.8), L2Ball(0.3, "token")

ABSOLUTE = [
    Case("none", NoAttack()),
    Case("noise", Noise(l2)),
    Case("noise-clean", Noise(linf, clean_weight=0.5)),
    Case("fgsm", FGSM(linf, step_size=0.1), finds_maximum=True),
    Case("fgsm-rs", FGSM(linf, step_size=0.125, random_start=True, clean_weight=0.0)),
    Case("fgm", FGM(l2), finds_maximum=True),
    Case("fgm-adversarial", FGM(l2, clean_weight=0.0), finds_maximum=True),
    Case("fgm-matrix", FGMMatrix(0.8), couples_examples=True, text_only=True),
    Case("pgd", PGD(l2, step_size=0.4, steps=3), finds_maximum=True),
    Case("pgd-clean", PGD(l1, 0.4, 3, clean_weight=0.5), finds_maximum=True),
    Case("pgd-zero", PGD(linf, 0.05, 3, random_start=False), finds_maximum=True),
    Case("pgd-zero-clean", PGD(l2, 0.4, 3, False, clean_weight=0.5), finds_maximum=True),
    Case("freelb", FreeLB(l2, step_size=0.4, steps=3, init_magnitude=0.5)),
    Case("freelb-zero", FreeLB(l2, step_size=0.5, steps=3)),
    Case("freelb-clean", FreeLB(linf, 0.05, 2, init_magnitude=0.5, clean_weight=0.25)),
    Case("pgd-token", PGD(tokens, 0.1, 2), text_only=True, finds_maximum=True),
    Case("freelb-token", FreeLB(tokens, step_size=0.2, steps=2), text_only=True),
]

RELATIVE = [
    replace(case, id=f"{case.id}-relative", method=Scaled(case.method, unit="relative"))
    for case in ABSOLUTE
    if case.moves_delta
]

METHODS_UNDER_TEST = ABSOLUTE + RELATIVE


def each_method(targets=TARGETS, such_that=lambda case: True):
    """Parametrize by (case, target), where the method can run on the target."""
    pairs = [
        pytest.param(case, target, id=f"{case.id}-{target.name}")
        for case in METHODS_UNDER_TEST
        for target in targets
        if such_that(case) and case.runs_on(target)
    ]
    return pytest.mark.parametrize(("case", "target"), pairs)
