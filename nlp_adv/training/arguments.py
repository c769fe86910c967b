"""Adversarial training as command-line flags: `--adv freelb --adv_steps 3 …`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import TrainingArguments

from nlp_adv.errors import UserError
from nlp_adv.methods import METHODS, WarmUp, build

_METHOD_FLAGS = (
    "epsilon",
    "norm",
    "per",
    "unit",
    "step_size",
    "steps",
    "random_start",
    "init_magnitude",
    "clean_weight",
)


def _flag(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class AdversarialArguments:
    """The flags, to be put before any TrainingArguments: `class A(AdversarialArguments, TA)`.

    A flag left unset keeps the method's preset (its paper's setting, ε as a share of the embedding
    norm). ε, step size and start are lengths in the same unit; with only ε given, the other two
    keep their ratio to it.

    Raises:
        UserError: an unknown method, a flag that the method does not have, a value out of range.
    """

    adv: str = _flag(f"Adversarial training method: {', '.join(METHODS)}.", "none")
    adv_epsilon: float | None = _flag("Radius ε of the ball, in --adv_unit.")
    adv_norm: Literal["l2", "linf", "l1"] | None = _flag("Norm of the ball.")
    adv_per: Literal["example", "token"] | None = _flag("What one norm covers.")
    adv_unit: Literal["absolute", "per_coordinate", "relative"] | None = _flag(
        "Unit of ε, step size and start: absolute, per_coordinate (ε per √(tokens·dim) for L2), or "
        "relative (ε as a share of the embedding norm)."
    )
    adv_step_size: float | None = _flag("Length α of an ascent step.")
    adv_steps: int | None = _flag("Number of steps K.")
    adv_random_start: bool | None = _flag("Start uniformly in the ball.")
    adv_init_magnitude: float | None = _flag("Size m of FreeLB's random start.")
    adv_clean_weight: float | None = _flag("Share w of the clean loss, in [0, 1).")
    adv_start_step: float = _flag(
        "This many optimizer steps are ordinary ones; below 1, this share of the run.", 0
    )
    adv_ramp_steps: float = _flag(
        "Over the next so many steps ε grows to full size; below 1, this share of the run.", 0
    )
    adv_exclude_special_tokens: bool = _flag("Leave [CLS], [SEP] and their like unmoved.", False)
    adv_embedding: str | None = _flag(
        "Name of the embedding module to perturb, for models that do not say which it is."
    )
    adv_seed: int | None = _flag("Seed of random starts; --seed where unset.")
    adv_mend_loss_scaling: bool = _flag(
        "Divide the loss by the accumulation steps (and average it over processes) for models that "
        "ignore num_items_in_batch, huggingface/transformers#47688; with --adv none as well.",
        False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        self.adversarial_schedule()

    def adversarial_schedule(self) -> WarmUp:
        """The method and its warm-up, as the flags stand now.

        Raises:
            UserError: see the class.
        """
        given = {key: getattr(self, f"adv_{key}") for key in _METHOD_FLAGS}
        try:
            method = build(self.adv, **given)
            return WarmUp(method, self.adv_start_step, self.adv_ramp_steps)
        except ValueError as error:
            raise UserError(f"--adv {self.adv}: {error}") from error


@dataclass
class AdversarialTrainingArguments(AdversarialArguments, TrainingArguments):
    """`TrainingArguments` with the adversarial flags."""
