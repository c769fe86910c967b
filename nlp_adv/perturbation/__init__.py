"""The core: tensors only; no model architecture, no text, no pixels."""

from nlp_adv.perturbation.ascent import advance, ascend
from nlp_adv.perturbation.balls import BALLS, Ball, L1Ball, L2Ball, LInfBall, WithinBox
from nlp_adv.perturbation.divergences import Outputs, divergence, mean_over_examples
from nlp_adv.perturbation.first_block import FirstBlock, blocks_after, find_first_block
from nlp_adv.perturbation.frozen_dropout import FrozenDropout, random_sources
from nlp_adv.perturbation.full_pass import Pass, SplitPass, full_pass
from nlp_adv.perturbation.hidden import Hidden, over_tokens
from nlp_adv.perturbation.inner_objective import (
    InnerObjective,
    InnerVerbs,
    RowedObjective,
    RowsObjective,
)
from nlp_adv.perturbation.inner_pass import without_dropout
from nlp_adv.perturbation.log_probs import Completions, Labelled, completions
from nlp_adv.perturbation.memory import Memory, NoMemory, StepError
from nlp_adv.perturbation.model_objective import ModelObjective
from nlp_adv.perturbation.objective import (
    HiddenObjective,
    LossOfCompletions,
    Objective,
    Output,
    PairedObjective,
)
from nlp_adv.perturbation.output_kinds import kind_of
from nlp_adv.perturbation.running import (
    ForwardFn,
    NoSync,
    copied,
    logits_of,
    model_forward,
    unwrapped,
)
from nlp_adv.perturbation.scaled_objective import ScaledObjective
from nlp_adv.perturbation.slices import Per, Segments
from nlp_adv.perturbation.units import Unit, unit_length

__all__ = [
    "BALLS",
    "Ball",
    "Completions",
    "FirstBlock",
    "ForwardFn",
    "FrozenDropout",
    "Hidden",
    "HiddenObjective",
    "InnerObjective",
    "InnerVerbs",
    "L1Ball",
    "L2Ball",
    "LInfBall",
    "Labelled",
    "LossOfCompletions",
    "Memory",
    "ModelObjective",
    "NoMemory",
    "NoSync",
    "Objective",
    "Output",
    "Outputs",
    "PairedObjective",
    "Pass",
    "Per",
    "RowedObjective",
    "RowsObjective",
    "ScaledObjective",
    "Segments",
    "SplitPass",
    "StepError",
    "Unit",
    "WithinBox",
    "advance",
    "ascend",
    "blocks_after",
    "completions",
    "copied",
    "divergence",
    "find_first_block",
    "full_pass",
    "kind_of",
    "logits_of",
    "mean_over_examples",
    "model_forward",
    "over_tokens",
    "random_sources",
    "unit_length",
    "unwrapped",
    "without_dropout",
]
