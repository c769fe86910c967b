"""What `nlp-adv attack --modality image` attacks: model and images, loaded from flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from nlp_adv.cli.attack_image_arguments import ImageAttackArguments, ImageVictimArguments
from nlp_adv.cli.loading import LoadedClassifier, load_classifier, to_device
from nlp_adv.data.images import Images, load_images
from nlp_adv.errors import UserError


@dataclass(frozen=True)
class AttackedImages:
    """The images of a run.

    Attributes:
        images: in the order in which they were drawn.
        ids: their numbers in the split.
        target: class that attacks lead to; no image is of it.
        description: for people.
        model_name: the same.
    """

    images: Images
    ids: list[int]
    target: int | None
    description: str
    model_name: str


def load_on_device(victim: ImageVictimArguments) -> LoadedClassifier:
    """The classifier, on its device.

    Raises:
        UserError: it cannot be had, or the device cannot be used.
    """
    classifier = load_classifier(
        victim.model_name_or_path, cache_dir=victim.cache_dir, revision=victim.model_revision
    )
    to_device(classifier.model, victim.device)
    return classifier


def load_attacked_images(
    victim: ImageVictimArguments, arguments: ImageAttackArguments, classifier: LoadedClassifier
) -> AttackedImages:
    """A random draw of the split, in the model's classes, without the target's.

    Raises:
        UserError: the images cannot be read, or there is no such split or class.
    """
    splits = load_images(
        victim.dataset_name, processor=classifier.processor, channels=classifier.channels
    )
    usual = next((name for name in ("test", "validation", "train") if name in splits), "")
    split = victim.split or usual
    if split not in splits:
        raise UserError(f"There is no split {split!r}; --split can be {', '.join(splits)}.")
    everything = splits[split].named_as(classifier.label_names)
    target = _target(arguments.target, classifier.label_names)
    free = [number for number, label in enumerate(everything.labels) if label != target]
    if not free:
        raise UserError(f"The {split} split of {victim.dataset_name} has no images to attack.")
    generator = torch.Generator().manual_seed(arguments.seed)
    order = torch.randperm(len(free), generator=generator)[: arguments.max_examples]
    ids = [free[place] for place in order.tolist()]
    called = victim.dataset_name
    if Path(called).is_dir():
        called = Path(called).resolve().name
    model_name = victim.model_name_or_path
    if Path(model_name).is_dir():
        model_name = Path(model_name).resolve().name
    drawn = f"{len(ids)} of {len(free)} images" if len(ids) < len(free) else f"{len(ids)} images"
    other = "" if target is None else f" of other classes than {classifier.label_names[target]}"
    return AttackedImages(
        images=everything.select(ids),
        ids=ids,
        target=target,
        description=f"{drawn}{other}, {called}, {split} split",
        model_name=model_name,
    )


def _target(text: str | None, names: tuple[str, ...]) -> int | None:
    if text is None:
        return None
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    raise UserError(f"There is no class {text!r}; --target can be a number or {shown}.")
