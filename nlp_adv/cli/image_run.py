"""One run of attacks on images: accuracies, curves, checks, images to draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import Tensor

from nlp_adv.attacks import Attack
from nlp_adv.attacks.subject import Subject
from nlp_adv.cli.image_attack_arguments import ImageAttackArguments, in_ball
from nlp_adv.data.images import Images
from nlp_adv.report.charts import NORMS
from nlp_adv.report.exhibit_pictures import exhibit_ids, exhibits
from nlp_adv.robustness.answers import NAME as ANSWERS
from nlp_adv.robustness.answers import check_answers
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks_records import record_checks
from nlp_adv.robustness.curve import Curve, EpsilonSweep, sweep_by_length
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.fingerprint import attack_fingerprint, fingerprint
from nlp_adv.robustness.finished import FinishedParts
from nlp_adv.robustness.image_evaluation import epsilon_sweep, evaluate_images
from nlp_adv.robustness.masking import masking_checks
from nlp_adv.sites.normalisation import Pixels


@dataclass(frozen=True)
class AttackedImages:
    """The images of a run.

    Attributes:
        images: in the order in which they were drawn.
        ids: their numbers in the split.
        target: class that attacks lead to; no image is of it.
        description: for people.
    """

    images: Images
    ids: list[int]
    target: int | None
    description: str


class ImageRun:
    """One model, its images and the attacks on them; curves and checks are made once a folder."""

    def __init__(
        self,
        arguments: ImageAttackArguments,
        attacks: Mapping[str, Attack],
        model: Pixels,
        images: AttackedImages,
    ) -> None:
        self.notes: list[str] = []
        self._arguments, self._attacks, self._model = arguments, attacks, model
        self._images = images

    def found(self) -> Evaluation:
        """Accuracies and records."""
        found = evaluate_images(
            self._model,
            self._batches(),
            self._attacks,
            restarts=self._arguments.restarts,
            target=self._images.target,
            within=self._arguments.ball(self._arguments.radius),
            ids=self._images.ids,
            output_dir=self._arguments.output_dir,
            progress="Attacking",
            examples=len(self._images.ids),
        )
        if found.unanswered:
            self.notes.append(
                f"The model answers {found.unanswered} of {found.examples} images with inf or nan, "
                f"which count as wrong."
            )
        return found

    def curves(self, found: Evaluation) -> list[Curve]:
        """Accuracy over ε, of each attack."""
        levels = self._arguments.norm == "linf"
        unit = "grey levels of 255" if levels else "pixels in [0, 1]"
        label, scale = f"ε, {NORMS[self._arguments.norm]}, {unit}", 255.0 if levels else 1.0
        return [
            Curve(
                title=name,
                x_label=label,
                points={point.epsilon: point.share for point in sweep.curve.points},
                scale=scale,
            )
            for name, sweep in self._sweeps(found).items()
        ]

    def _sweeps(self, found: Evaluation) -> dict[str, EpsilonSweep]:
        radii, finished = self._arguments.epsilons, self._finished(found)
        sweeps = {}
        for name, attack in self._attacks.items() if radii else ():
            if not in_ball(attack):
                ball = self._arguments.ball(self._arguments.radius)
                sweeps[name] = sweep_by_length(found.of(name), ball, radii)
                continue
            sweep = partial(self._sweep, name, attack)
            sweeps[name] = EpsilonSweep.read(
                finished.part(f"curve of {name}", [attack_fingerprint(attack), radii], sweep)
            )
        return sweeps

    def _sweep(self, name: str, attack: Attack) -> dict[str, Any]:
        return epsilon_sweep(
            attack,
            self._model,
            self._batches(),
            self._arguments.epsilons,
            target=self._images.target,
            progress=f"{name} over ε",
        ).described()

    def checks(self, found: Evaluation) -> list[Check]:
        """What may speak against the accuracies."""
        tells = check_answers(found.answers)
        if not self._arguments.checks:
            return [tells]
        found_checks = [tells]
        found_checks += record_checks(found.records)
        settings = [
            attack_fingerprint(self._arguments.settings().pgd()),
            self._arguments.check_examples,
        ]
        kept = self._finished(found).part("checks", settings, self._check)
        return [Check(**one) for one in kept if one["name"] != ANSWERS] + found_checks

    def _check(self) -> list[dict[str, Any]]:
        some = self._images.images.head(self._arguments.check_examples)
        batches = some.batches(self._arguments.batch_size)
        attack = self._arguments.settings().pgd()
        title = "Checking for masking"
        checks = masking_checks(Subject(self._model), batches, attack, progress=title)
        return [asdict(one) for one in checks]

    def exhibits(self, found: Evaluation) -> dict[str, Any]:
        """A few images under each attack once more, to be drawn."""
        ids = exhibit_ids(found)
        channels = len(self._images.images[0][0])
        if channels not in (1, 3):
            self.notes.append(f"There are no pictures of images with {channels} channels.")
        elif ids:
            places = [self._images.ids.index(number) for number in ids]
            ((x, y),) = self._images.images.select(places).batches(len(places))
            return dict(exhibits(self._model, x, y, self._attacks, target=self._images.target))
        return {}

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._images.images.batches(self._arguments.batch_size)

    def _finished(self, found: Evaluation) -> FinishedParts:
        images = [(one.id, one.example) for one in found.of(found.titles[0])]
        depends = [fingerprint(self._model), images, self._images.target]
        return FinishedParts(self._arguments.output_dir, depends)
