"""Image classifiers of transformers, with the normalisation that belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoModelForImageClassification

from nlp_adv.errors import UserError, foreign_code
from nlp_adv.sites.normalisation import Pixels


@dataclass(frozen=True)
class LoadedClassifier:
    """A model on pixels, and what belongs to it.

    Attributes:
        model: takes pixels in [0, 1].
        processor: the image processor that was saved beside it.
        label_names: of its classes.
    """

    model: Pixels
    processor: Any
    label_names: tuple[str, ...]

    @property
    def channels(self) -> int:
        """Of its images."""
        return int(getattr(self.model.model.config, "num_channels", 3))


def load_classifier(
    name: str, *, cache_dir: str | None = None, revision: str = "main"
) -> LoadedClassifier:
    """A model and its image processor, from a folder or the Hub.

    Raises:
        UserError: one of them is not there, or is for something else.
    """
    where: dict[str, Any] = {"cache_dir": cache_dir, "revision": revision}
    where["trust_remote_code"] = False
    processor = load_processor(name, cache_dir=cache_dir, revision=revision)
    try:
        model = AutoModelForImageClassification.from_pretrained(name, **where)
    except Exception as error:  # damaged files fail in any way
        raise cannot_load("image classifier", name, error) from error
    labels = tuple(label for _, label in sorted(model.config.id2label.items()))
    return LoadedClassifier(Pixels.from_processor(model.eval(), processor), processor, labels)


def load_processor(name: str, *, cache_dir: str | None = None, revision: str = "main") -> Any:
    """The image processor saved beside a model: it knows size, mean and std.

    Raises:
        UserError: there is none.
    """
    try:
        load: Any = AutoImageProcessor.from_pretrained
        return load(name, cache_dir=cache_dir, revision=revision, trust_remote_code=False)
    except Exception as error:  # damaged files fail in any way
        raise cannot_load("image processor (preprocessor_config.json)", name, error) from error


def cannot_load(what: str, name: str, error: Exception) -> UserError:
    """What to say when it is not there."""
    if "trust_remote_code" in str(error):
        return UserError(foreign_code(what, name))
    reason = " ".join(str(error).split())[:300]
    if Path(name).is_dir():
        return UserError(f"The folder {name} holds no usable {what}: {reason}")
    return UserError(
        f"There is no folder {name!r} here, and the {what} of that name could not be loaded from "
        f"the Hub ({reason}); check the name and the network."
    )
