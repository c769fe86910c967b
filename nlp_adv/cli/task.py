"""What `nlp-adv train` must know of the kind of data: all that differs between text and images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, cast

from torch import nn
from transformers import PreTrainedModel

from nlp_adv.attacks import Measured
from nlp_adv.attacks.subject import Batch, Subject
from nlp_adv.methods import Method, Modality, all_methods
from nlp_adv.robustness.embedding import accuracies
from nlp_adv.robustness.evaluator import evaluator
from nlp_adv.training.callbacks import Evaluator
from nlp_adv.training.metrics import compute_metrics_for, metric_names, with_largest_answer

if TYPE_CHECKING:
    from nlp_adv.cli.arguments import ReportArguments, TrainArguments
    from nlp_adv.training.arguments import AdversarialTrainingArguments

_TASKS = {"text": "nlp_adv.cli.text_task:TextTask", "image": "nlp_adv.cli.image_task:ImageTask"}


@dataclass
class Task(ABC):
    """Everything that a run needs but its arguments.

    Attributes:
        splits: with labels, as a Trainer takes them: "train", and some of "validation", "test", ….
        processor: the tokenizer, or the image processor.
        label_names: of the classes, in the model's order; None for scores.
        new_model: the model that training begins with, the same each time.
        predicted: what `--do_predict` is about, by the name of the file for it.
        task_name: of GLUE, where the metrics follow it.
    """

    splits: dict[str, Any]
    processor: Any
    label_names: tuple[str, ...] | None
    new_model: Callable[[], PreTrainedModel]
    predicted: dict[str, Any] = field(default_factory=dict)
    task_name: str | None = None

    modality: ClassVar[Modality]
    other: ClassVar[Modality]
    arguments: ClassVar[tuple[type, ...]]  # of the model, the data, and the report
    examples: ClassVar[str]  # what one calls them, in the plural
    demo_note: ClassVar[str]  # below the demo's table

    @classmethod
    @abstractmethod
    def is_demo(cls, named: set[str]) -> bool:
        """Whether flags of these names ask for the demo.

        Raises:
            UserError: they name half of what is needed.
        """

    @classmethod
    @abstractmethod
    def defaults(cls, adv: str, *, demo: bool) -> dict[str, str]:
        """Flags that the user's own win over."""

    @classmethod  # noqa: B027
    def complete(cls, arguments: TrainArguments) -> None:
        """Fill in what follows from other flags; of most tasks nothing does."""

    @classmethod
    @abstractmethod
    def folder(cls, *, demo: bool) -> str:
        """What a run's folder is called, before the method's name."""

    @classmethod
    @abstractmethod
    def load(cls, arguments: TrainArguments) -> Task:
        """Read or generate the data and load the processor.

        Raises:
            UserError: one of them cannot be had.
        """

    @abstractmethod
    def labels(self, split: str) -> list[Any]:
        """Of the rows of a split."""

    @abstractmethod
    def check_fits(self, model: PreTrainedModel, arguments: TrainArguments) -> None:
        """Make sure that the model can be trained on the data, and attacked where that is asked.

        Raises:
            UserError: it cannot.
        """

    @abstractmethod
    def subject(self, model: nn.Module, training: AdversarialTrainingArguments) -> Subject:
        """What is attacked of a model: pixels, or the embeddings that are trained on."""

    @abstractmethod
    def attacked(self, split: str, count: int) -> Iterable[Batch]:
        """The first so many rows of a split, in batches."""

    def measure(
        self,
        model: PreTrainedModel,
        split: str,
        report: ReportArguments,
        training: AdversarialTrainingArguments,
        *,
        progress: str | None,
    ) -> Measured:
        """Accuracy of a model under `report.attack(report.attack_epsilons)` on a split's first."""
        return accuracies(
            self.subject(model, training),
            self.attacked(split, report.attack_examples),
            report.attack(report.attack_epsilons),
            progress=progress,
        )

    @abstractmethod
    def meaning(self, found: Measured) -> str:
        """What the attack of the table was and what its radii are, for below the table."""

    def more(self, found: Measured) -> dict[str, Any]:
        """Numbers of one kind of data, for the JSON."""
        return {}

    def evaluator(
        self, report: ReportArguments, training: AdversarialTrainingArguments
    ) -> Evaluator:
        """What measures a model at every evaluation, at `report.watch_epsilon`."""
        batches = list(self.attacked("validation", report.attack_examples))
        attack = report.attack([report.watch_epsilon or 0.0])
        return evaluator(batches, attack, lambda model: self.subject(model, training))

    @abstractmethod
    def attack_in_json(self, report: Any) -> dict[str, Any]:
        """The attack of the table, for the JSON."""

    def radius_in_words(
        self, method: Method, model: PreTrainedModel, training: AdversarialTrainingArguments
    ) -> str | None:
        """What the method's ε amounts to on the training data; None where ε says it itself."""
        return None

    def shown_radius(self, epsilon: float) -> str:
        """A radius as people write it."""
        return f"{epsilon:g}"

    def for_trainer(self) -> dict[str, Any]:
        """What a Trainer is given beside the model and its arguments."""
        compute = compute_metrics_for(self.task_name, self.label_names)
        if self.label_names is not None:
            compute = with_largest_answer(compute)
        return {
            "train_dataset": self.splits["train"],
            "eval_dataset": self.splits.get("validation"),
            "processing_class": self.processor,
            "compute_metrics": compute,
        }

    @property
    def evaluated(self) -> list[str]:
        """Splits that are scored."""
        return [name for name in self.splits if name != "train"]

    @property
    def reported(self) -> str | None:
        """The split that the report is about: the test split where there is one."""
        return next((name for name in ("test", "validation") if name in self.splits), None)

    def metric_names(self, report: ReportArguments) -> list[str]:
        """What an evaluation scores, robust accuracy where it is watched."""
        watched = ["robust_accuracy"] if report.watch_epsilon else []
        return metric_names(self.task_name, self.label_names) + watched


def task_of(modality: Modality) -> type[Task]:
    """The task of a modality; only its own libraries are imported."""
    module, _, name = _TASKS[modality].partition(":")
    return cast(type[Task], getattr(import_module(module), name))


def load_task(arguments: TrainArguments) -> Task:
    """The data and the processor that flags name; the model comes with each `new_model()`.

    Raises:
        UserError: data or processor cannot be had.
    """
    return arguments.kind.load(arguments)


def has_ball(adv: str) -> bool:
    """Whether a method of that name moves δ in a ball."""
    method = all_methods().get(adv)
    return method is not None and hasattr(method.preset(), "ball")
