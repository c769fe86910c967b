"""Attacks on images: what they need, and the run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from nlp_adv.attacks import Attack
from nlp_adv.cli.attack import Attacked, AttackTask
from nlp_adv.cli.attack_arguments import (
    VictimArguments,
    chosen_split,
    class_number,
    shown_name,
)
from nlp_adv.cli.evaluations import hub_name, model_name, saved_report, training_of
from nlp_adv.cli.image_attack_arguments import (
    ImageAttackArguments,
    ImageFlags,
    built_attacks,
    check_numbers,
)
from nlp_adv.cli.image_run import AttackedImages
from nlp_adv.cli.loading import LoadedClassifier, load_classifier, to_device
from nlp_adv.data.image_sources import load_images
from nlp_adv.errors import UserError
from nlp_adv.report.exhibit_pictures import PictureExhibit
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.image_evaluation import evaluate_images
from nlp_adv.robustness.processes import Processes


class ImageAttack(ImageFlags, AttackTask):
    """Pixels, in a ball or by the smallest δ, with curves over ε and checks."""

    attack: ImageAttackArguments

    def __init__(self, command: str, parsed: Sequence[Any]) -> None:
        super().__init__(command, parsed)
        if not self.victim.model_name_or_path:
            return  # the first thing to be said
        if not self.victim.dataset_name:
            raise UserError("Name the images: --dataset_name FOLDER.")
        check_numbers(self.attack)
        self._attacks = built_attacks(self.attack)

    def check(self) -> None:
        """The images are there."""
        load_images(str(self.victim.dataset_name), config=self.victim.dataset_config_name)

    def run(
        self, processes: Processes, **more: Any
    ) -> tuple[Evaluation, LoadedClassifier, AttackedImages]:
        """Attack the images."""
        victim, arguments = self.victim, self.attack
        name = victim.model_name_or_path
        classifier = load_classifier(name, **victim.hub(name))
        to_device(classifier.model, victim.device)
        images = self._images(classifier)
        print(
            f"Attacking {name} on {images.description}; records go to {arguments.output_dir}.",
            file=sys.stderr,
        )
        ball = arguments.ball(arguments.radius)
        found = evaluate_images(
            classifier.model,
            images.images.batches(arguments.batch_size),
            self._attacks,
            restarts=arguments.restarts,
            target=images.target,
            within=ball,
            ids=images.ids,
            output_dir=arguments.output_dir,
            progress="Attacking",
            examples=len(images.ids),
            epsilons=arguments.epsilons,
            checked=arguments.settings().pgd() if arguments.checks else None,
            check_examples=arguments.check_examples,
            processes=processes,
        )
        return found, classifier, images

    def report(
        self, command: str, done: tuple[Evaluation, LoadedClassifier, AttackedImages]
    ) -> Attacked:
        """Draw some images, save the evaluation, and write its page."""
        victim, arguments = self.victim, self.attack
        found, classifier, images = done
        drawn = images.drawn(found, classifier.model, self._attacks)
        undrawn = f"There are no pictures of images with {images.channels} channels."
        found = replace(
            found,
            description=images.description,
            labels=tuple(classifier.label_names),
            notes=[*found.notes, *([] if images.channels in (1, 3) else [undrawn])],
            details=_settings(victim, arguments, self._attacks),
            name=model_name(victim.model_name_or_path),
            texts=found.examples,
            training=training_of(victim.model_name_or_path),
        )
        page, summary = saved_report(
            found,
            arguments.output_dir,
            command,
            title="Image attacks",
            exhibit=PictureExhibit(drawn) if drawn else None,
            dataset_id=victim.hub_dataset_id or hub_name(victim.dataset_name),
        )
        return Attacked(found, summary, found.checks, found.notes, page)

    def _images(self, classifier: LoadedClassifier) -> AttackedImages:
        """A random draw of the split, in the model's classes, without the target's.

        Raises:
            UserError: the images cannot be read, or there is no such split or class.
        """
        victim, name = self.victim, str(self.victim.dataset_name)
        splits = load_images(
            name,
            processor=classifier.processor,
            channels=classifier.channels,
            config=victim.dataset_config_name,
            token=victim.token,
        )
        split = chosen_split(splits, victim.split, ("test", "validation", "train"))
        everything = splits[split].named_as(classifier.label_names)
        target = class_number(self.attack.target, classifier.label_names)
        free = [number for number, label in enumerate(everything.labels) if label != target]
        if not free:
            raise UserError(f"The {split} split of {name} has no images to attack.")
        generator = torch.Generator().manual_seed(self.attack.seed)
        order = torch.randperm(len(free), generator=generator)[: self.attack.max_examples]
        ids = [free[place] for place in order.tolist()]
        drawn = f"{len(ids)} of {len(free)}" if len(ids) < len(free) else str(len(ids))
        other = "" if target is None else f" of other classes than {classifier.label_names[target]}"
        description = f"{drawn} images{other}, {shown_name(name)}, {split} split"
        return AttackedImages(everything.select(ids), ids, target, description)


def _settings(
    victim: VictimArguments, arguments: ImageAttackArguments, attacks: Mapping[str, Attack]
) -> dict[str, Any]:
    return {
        "model": victim.model_name_or_path,
        "norm": arguments.norm,
        "ε": f"{arguments.radius:.6g} ({255 * arguments.radius:.4g}/255)",
        **{name: str(attack) for name, attack in attacks.items()},
        "starts": arguments.restarts,
        "seed": arguments.seed,
        "target": arguments.target,
        "images a batch": arguments.batch_size,
        "images of the checks": arguments.check_examples if arguments.checks else None,
    }
