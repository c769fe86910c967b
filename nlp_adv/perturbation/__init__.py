"""The core: tensors only; no model architecture, no text, no pixels."""

from nlp_adv.perturbation.ascent import advance, ascend
from nlp_adv.perturbation.balls import BALLS, Ball, L1Ball, L2Ball, LInfBall, Per, WithinBox
from nlp_adv.perturbation.frozen_dropout import FrozenDropout
from nlp_adv.perturbation.objective import (
    ModelObjective,
    Objective,
    Output,
    Pass,
    ScaledObjective,
    full_pass,
)
from nlp_adv.perturbation.units import Unit, unit_length

__all__ = [
    "BALLS",
    "Ball",
    "FrozenDropout",
    "L1Ball",
    "L2Ball",
    "LInfBall",
    "ModelObjective",
    "Objective",
    "Output",
    "Pass",
    "Per",
    "ScaledObjective",
    "Unit",
    "WithinBox",
    "advance",
    "ascend",
    "full_pass",
    "unit_length",
]
