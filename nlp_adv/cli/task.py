"""What `nlp-adv train` must know of the kind of data: all that differs between kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy
import torch
from torch import nn
from transformers import PreTrainedModel

from nlp_adv.attacks import Measured
from nlp_adv.attacks.subject import Batch, Subject
from nlp_adv.cli.modality import About
from nlp_adv.errors import UserError
from nlp_adv.methods import Method, Modality, all_methods
from nlp_adv.perturbation.evaluating import answers
from nlp_adv.robustness.embedding import accuracies
from nlp_adv.robustness.evaluator import evaluator
from nlp_adv.training.callbacks import Evaluator

if TYPE_CHECKING:
    from nlp_adv.cli.arguments import ReportArguments, TrainArguments
    from nlp_adv.training.arguments import AdversarialTrainingArguments
    from nlp_adv.training.attacked_texts import AttackedTexts

_SEVERAL = "nlp_adv.cli.several_tasks"
_TASKS = {
    "image": {"classification": "nlp_adv.cli.image_task:ImageTask"},
    "text": {
        "classification": "nlp_adv.cli.text_task:TextTask",
        "token-classification": f"{_SEVERAL}:TokenTask",
        "multi-label": f"{_SEVERAL}:MultiLabelTask",
        "causal-lm": f"{_SEVERAL}:CausalTask",
    },
    "chat": {"pairs": "nlp_adv.cli.chat_task:ChatTask"},
}


@dataclass
class Task(ABC):
    """Everything that a run needs but its arguments.

    Attributes:
        splits: with labels, as a Trainer takes them: "train", and some of "validation", "test", ….
        processor: the tokenizer, or the image processor.
        label_names: of the classes, in the model's order; None for scores and for texts alone.
        new_model: the model that training begins with, the same each time.
        predicted: what `--do_predict` is about, by the name of the file for it.
        task_name: of GLUE, where the metrics follow it.
        texts: of the training rows and their classes, for attacks on words; None where those do
            not act.
    """

    splits: dict[str, Any]
    processor: Any
    label_names: tuple[str, ...] | None
    new_model: Callable[[], PreTrainedModel]
    predicted: dict[str, Any] = field(default_factory=dict)
    task_name: str | None = None
    texts: Any = None

    modality: ClassVar[Modality]  # of a method's presets
    about: ClassVar[About]  # as `--modality` says it
    other: ClassVar[About]
    arguments: ClassVar[tuple[type, ...]]  # of the model, the data, and the report
    of_training: ClassVar[tuple[type, ...]] = ()  # further flags of `train` alone, of one class
    examples: ClassVar[str]  # what one calls them, in the plural
    demo_note: ClassVar[str]  # below the demo's table
    demo_method: ClassVar[str] = "none"  # of the demo where no --adv is given

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
    ) -> Any:
        """Accuracy of a model under `report.attack(report.attack_epsilons)` on a split's first."""
        return accuracies(
            self.subject(model, training),
            self.attacked(split, report.attack_examples),
            report.attack(report.attack_epsilons),
            progress=progress,
        )

    @abstractmethod
    def meaning(self, found: Any) -> str:
        """What the attack of the table was and what its radii are, for below the table."""

    def attacks_after(self, report: ReportArguments) -> bool:
        """Whether the trained model is attacked, for the table."""
        return bool(report.attack_epsilons) and self.reported is not None

    def check_attack(self, arguments: TrainArguments) -> None:
        """Refuse an attack on the trained model that could not be made.

        Raises:
            UserError: with the way out.
        """
        report, training = arguments.report, arguments.training
        if self.reported is None and (training.eval_strategy != "no" or report.attack_epsilons):
            raise UserError(
                "There is nothing to evaluate on: give a validation or test split, or leave out "
                "--eval_strategy and --attack_epsilons."
            )
        if report.attack_epsilons and not self.has_accuracy:
            raise UserError("--attack_epsilons measures accuracy; regression has none.")
        if report.watch_epsilon and (training.eval_strategy == "no" or not self.has_accuracy):
            raise UserError(
                "--watch_epsilon measures accuracy under attack at every evaluation: it needs "
                "classes, and --eval_strategy epoch or steps."
            )

    def columns(self, found: Any, report: ReportArguments, mark: str = "") -> dict[str, str]:
        """What the attack found of one model, by the titles of the table's columns.

        Args:
            found: by `measure`.
            report: of the run.
            mark: set behind what is no robustness.
        """
        cells = {}
        under = accuracies_under(found)
        for epsilon, accuracy in {0.0: found.clean_accuracy, **under}.items():
            title = f"clean, first {found.examples}"
            if epsilon in under:
                title = f"PGD-{report.attack_steps} ε={self.shown_radius(epsilon)}"
            scores = {"": accuracy, **self.under_attack(found, epsilon)}
            for name, value in scores.items():
                shown = f"{name}, {title}" if name else title
                cells[shown] = f"{value:.4f}{mark if epsilon else ''}"
        return cells

    def found_in_json(self, found: Any) -> dict[str, Any]:
        """The same, for the JSON."""
        under = accuracies_under(found)
        content = {
            "attacked_examples": found.examples,
            "accuracy_without_attack": found.clean_accuracy,
            **self.more(found),
            "accuracy_under_attack": {str(epsilon): value for epsilon, value in under.items()},
        }
        others = {e: scores for e in (0.0, *under) if (scores := self.under_attack(found, e))}
        if others:
            content["scores_without_attack"] = others.pop(0.0)
            content["scores_under_attack"] = {str(e): scores for e, scores in others.items()}
        return content

    def more(self, found: Measured) -> dict[str, Any]:
        """Numbers of one kind of data, for the JSON."""
        return {}

    def under_attack(self, found: Measured, epsilon: float) -> dict[str, float]:
        """Further scores than accuracy at a radius, 0 for none."""
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

    @property
    def has_accuracy(self) -> bool:
        """Whether an answer is right or wrong, so that accuracy under attack means something."""
        return self.label_names is not None

    @property
    def hub_task(self) -> str:
        """What the Hub calls the task."""
        return f"{self.modality}-classification"

    def compute_metrics(self) -> Callable[[Any], dict[str, float]]:
        """What a Trainer scores predictions with."""
        from nlp_adv.training.metrics import compute_metrics_for, with_largest_answer

        compute = compute_metrics_for(self.task_name, self.label_names)
        return compute if self.label_names is None else with_largest_answer(compute)

    def after_scoring(self, scores: dict[str, float], name: str) -> dict[str, float]:
        """Scores of a split that follow from the others, by the Trainer's names."""
        return {}

    def in_words(self, predictions: Any, rows: Any) -> list[str]:
        """What the model says of each row, as people read it: its class, or its score.

        Args:
            predictions: as the Trainer hands them back.
            rows: they are about.
        """
        logits = numpy.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)
        if self.label_names is None:
            return [f"{score:.3f}" for score in logits.reshape(len(logits)).tolist()]
        names = self.label_names
        classes = answers(torch.from_numpy(logits)).tolist()
        return [names[number] if 0 <= number < len(names) else "" for number in classes]

    def attacked_texts(self, arguments: TrainArguments) -> AttackedTexts | None:
        """The training rows with places for adversarial texts; None without such an attack.

        Raises:
            UserError: the attack, or what it needs, cannot be had, or not on these data.
        """
        return None

    def rows_of_an_epoch(self, arguments: TrainArguments) -> int:
        """Of the training split, and the places for adversarial texts."""
        words = self.attacked_texts(arguments)
        return len(self.splits["train"] if words is None else words)

    def for_trainer(self) -> dict[str, Any]:
        """What a Trainer is given beside the model and its arguments."""
        return {
            "train_dataset": self.splits["train"],
            "eval_dataset": self.splits.get("validation"),
            "processing_class": self.processor,
            "compute_metrics": self.compute_metrics(),
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
        return self.own_metrics() + (["robust_accuracy"] if report.watch_epsilon else [])

    def own_metrics(self) -> list[str]:
        """The names of what `compute_metrics` scores, but for the largest answer."""
        from nlp_adv.training.metrics import metric_names  # evaluate is not there for --help

        return metric_names(self.task_name, self.label_names)


def task_of(modality: About, name: str | None = None) -> type[Task]:
    """A task of a modality, classification where none is named; it alone is imported.

    Raises:
        UserError: there is no task of that name.
    """
    known = _TASKS[modality]
    if name is not None and name not in known:
        raise UserError(f"--task is one of {', '.join(known)} for {modality}, not {name!r}.")
    module, _, name = known[name or next(iter(known))].partition(":")
    return cast(type[Task], getattr(import_module(module), name))


def load_task(arguments: TrainArguments) -> Task:
    """The data and the processor that flags name; the model comes with each `new_model()`.

    Raises:
        UserError: data or processor cannot be had.
    """
    return arguments.kind.load(arguments)


def accuracies_under(found: Measured) -> dict[float, float]:
    """Accuracy by radius, from the smallest up."""
    return {e: found.accuracy(e) for e in found.radii if e is not None}


def has_ball(adv: str) -> bool:
    """Whether a method of that name moves δ in a ball."""
    method = all_methods().get(adv)
    return method is not None and hasattr(method.preset(), "ball")
