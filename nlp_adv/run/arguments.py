"""The flags of `nlp-adv run`: those of adversarial training alone."""

from dataclasses import dataclass, field

from nlp_adv.training.arguments import AdversarialArguments


@dataclass
class _NoTrainingArguments:
    """The end of the chain that TrainingArguments is elsewhere."""

    def __post_init__(self) -> None:
        pass


@dataclass
class RunArguments(AdversarialArguments, _NoTrainingArguments):
    """Adversarial training of a script as it is."""

    adv_trainer: str | None = field(
        default=None,
        metadata={
            "help": "Only Trainers of the class of this name, or of a subclass; all where unset."
        },
    )
