"""Every method that must pass the contracts. A new method is one entry in the first list."""

from dataclasses import dataclass, replace

import pytest
import torch
from targets import TARGETS, TEXT_TARGETS, WORD_TARGETS, PairTarget

from nlp_adv.methods import (
    AWP,
    FGM,
    FGSM,
    PGD,
    SAM,
    SMART,
    TAVAT,
    TRADES,
    VAT,
    YOPO,
    FGMMatrix,
    FGMRemembered,
    FreeAT,
    FreeLB,
    Method,
    NoAttack,
    Noise,
    RDrop,
    Scaled,
    SomeRows,
    bare,
)
from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall


@dataclass(frozen=True)
class Case:
    """A method and which contracts have an exception for it.

    Args:
        id: its name in the test's id.
        method: a configuration; lengths are absolute, word vectors have a norm of about 1.
        couples_examples: one norm or one draw covers the batch, so contract 3 cannot hold.
        text_only: it perturbs the embedding matrix, or each token.
        finds_maximum: with enough steps, `report.adversarial` is the maximum over the ball.
        finds_divergence: the same of `report.divergence`, at one of the ends of the ball.
        moves_step_by_step: each δ it asks about is a step from the last one.
        leaf: every pass computes ∇δ.
    """

    id: str
    method: Method
    couples_examples: bool = False
    text_only: bool = False
    finds_maximum: bool = False
    finds_divergence: bool = False
    moves_step_by_step: bool = True
    leaf: bool = True

    @property
    def moves_delta(self) -> bool:
        return hasattr(self.method, "ball")

    def runs_on(self, target) -> bool:
        """Changes of unit are the same code everywhere: one target of each shape will do."""
        if isinstance(self.method, Scaled) and target not in (TARGETS[0], TARGETS[-1]):
            return getattr(target, "modules", 1) > 1 and self.id == "freelb-relative"
        if isinstance(target, PairTarget) and isinstance(bare(self.method), YOPO):
            return False  # it needs one pass through the model
        if any(getattr(bare(self.method), it, False) for it in ("text_only", "reads_table")):
            by_label = getattr(bare(self.method), "by", "") == "label_word"  # one for each example
            return target in WORD_TARGETS and not (by_label and target.id == "t5_token")
        return target in TEXT_TARGETS or not self.text_only


@dataclass(frozen=True)
class SecondReplay(FreeAT):
    """FreeAT where a first replay has left a δ: without one it is ordinary training."""

    def step(self, objective):
        memory = objective.memory
        memory.replay = 1
        memory.tensors["freeat/0"] = self.ball.sample(objective.mask, objective.generator)
        return super().step(objective)


@dataclass(frozen=True)
class Reminded(FGMRemembered):
    """FGM that has seen all words, or these examples: at first it has nothing to go by."""

    def step(self, objective):
        kept, mask = objective.memory.tensors, objective.mask
        draws = torch.Generator().manual_seed(3)
        if self.by == "example":
            each, names = objective.within(L2Ball(1.0)).per, objective.example_names()
            objective.memory.keep(names, mask, mask, each)
            ones = [key for key in kept if key.startswith("delta/")]
            many = torch.randn(10_000, generator=draws).to(mask)  # the n-th free number's, anywhere
            for key in ones:
                kept[key] *= many[: len(kept[key])]
        elif objective.table is not None:
            table = torch.randn(4 * len(objective.table) + 1, mask.shape[-1], generator=draws)
            kept["fgm_remembered/table"] = table.to(mask)
        return super().step(objective)


def comparing(id: str, method: Method, **exceptions) -> Case:
    """A method that compares outputs: some of its passes need no ∇δ."""
    return Case(id, method, leaf=False, **exceptions)


def some_rows(id: str, method: Method) -> Case:
    """Two of the three rows are attacked; passes for ∇δ have dropout masks of their own."""
    return Case(id, SomeRows(method, 2 / 3), couples_examples=True)


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
    Case("fgm-remembered", Reminded(l2), text_only=True),
    Case("fgm-remembered-word", Reminded(linf, 0.5, "word", 0.5), text_only=True),
    Case("fgm-remembered-example", Reminded(l2, by="example")),
    Case("pgd", PGD(l2, step_size=0.4, steps=3), finds_maximum=True),
    Case("pgd-clean", PGD(l1, 0.4, 3, clean_weight=0.5), finds_maximum=True),
    Case("pgd-zero", PGD(linf, 0.05, 3, random_start=False), finds_maximum=True),
    Case("pgd-zero-clean", PGD(l2, 0.4, 3, False, clean_weight=0.5), finds_maximum=True),
    some_rows("fgm-rows", FGM(l2, clean_weight=1 / 3)),
    some_rows("pgd-rows", PGD(linf, 0.05, 3, clean_weight=1 / 3)),
    Case("freelb", FreeLB(l2, step_size=0.4, steps=3, init_magnitude=0.5)),
    Case("freelb-zero", FreeLB(l2, step_size=0.5, steps=3)),
    Case("freelb-clean", FreeLB(linf, 0.05, 2, init_magnitude=0.5, clean_weight=0.25)),
    Case("freelb-reuse", FreeLB(l2, step_size=0.4, steps=2, init_magnitude=0.5, reuse=True)),
    Case("freelb-unbounded", FreeLB(L2Ball(torch.inf), 0.4, 3, init_magnitude=0.5)),
    Case("freeat", SecondReplay(l2, step_size=0.8, replays=3)),
    Case("freeat-carry", SecondReplay(linf, step_size=0.1, replays=2, carry=True)),
    Case("yopo", YOPO(l2, step_size=0.2, rounds=3, steps=3)),
    Case("yopo-random", YOPO(linf, 0.05, 2, 2, random_start=True)),
    Case("yopo-clean", YOPO(l2, 0.3, 2, 3, clean_weight=0.25)),
    Case("tavat", TAVAT(l2, step_size=0.4, steps=3, init_magnitude=0.5), text_only=True),
    Case("tavat-clean", TAVAT(l2, 0.5, 2, clean_weight=0.5), text_only=True),
    comparing("rdrop", RDrop()),
    comparing("vat", VAT(l2, xi=0.1), finds_divergence=True, moves_step_by_step=False),
    comparing("alum", VAT(linf, 0.05, 2, symmetric=True), moves_step_by_step=False),
    comparing("smart", SMART(linf, 0.05, 2, 1.0, init_magnitude=0.5), finds_divergence=True),
    comparing("smart-proximal", SMART(l2, 0.4, 1, 2.0, 0.5, proximal_weight=1.0)),
    comparing("trades", TRADES(l2, 0.4, 2, 6.0, init_magnitude=0.5), finds_divergence=True),
    comparing("trades-token", TRADES(tokens, 0.2, 2, 6.0, 0.5), text_only=True),
    comparing("awp", AWP(l2, step_size=0.4, steps=2, gamma=0.01), couples_examples=True),
    comparing("awp-clean", AWP(l2, 0.4, 2, 0.01, clean_weight=0.5), couples_examples=True),
    comparing("sam", SAM(rho=0.1), couples_examples=True),
    comparing("sam-adaptive", SAM(rho=0.3, adaptive=True), couples_examples=True),
    comparing("awp-weights", AWP(l2, 0.4, steps=0, gamma=0.01), couples_examples=True),
    Case("pgd-token", PGD(tokens, 0.1, 2), text_only=True, finds_maximum=True),
    Case("freelb-token", FreeLB(tokens, step_size=0.2, steps=2), text_only=True),
]

RELATIVE = [
    replace(case, id=f"{case.id}-relative", method=Scaled(case.method, unit="relative"))
    for case in ABSOLUTE
    if case.moves_delta
]

METHODS_UNDER_TEST = ABSOLUTE + RELATIVE


# What runs by default: one setting of each method and the options that are code of their own, on
# words; what differs at a layer, at two modules or on pixels, on a few.
MAIN = [case.id for case in ABSOLUTE if "-" not in case.id]
MAIN += [
    "fgm-matrix",
    "fgm-remembered",
    "fgm-remembered-example",
    "pgd-rows",
    "pgd-clean",
    "freelb-reuse",
    "trades-token",
    "freelb-relative",
]
ELSEWHERE = {
    "bert-layer": ("pgd", "yopo"),
    "bert-two": ("freelb", "freelb-relative"),
    "bert-pairs": ("pgd", "freelb", "trades", "fgm-rows"),
    "gpt2": ("trades",),
    "pixels": ("pgd", "freelb", "trades", "awp", "pgd-rows", "freelb-relative"),
}


def _marks(case: Case, target):
    here = MAIN if target is TARGETS[0] else ELSEWHERE.get(target.id, ())
    return () if case.id in here else pytest.mark.slow


def each_method(targets=TARGETS, such_that=lambda case: True):
    """Parametrize by (case, target), where the method can run on the target."""
    pairs = [
        pytest.param(case, target, id=f"{case.id}-{target.id}", marks=_marks(case, target))
        for case in METHODS_UNDER_TEST
        for target in targets
        if such_that(case) and case.runs_on(target)
    ]
    return pytest.mark.parametrize(("case", "target"), pairs)
