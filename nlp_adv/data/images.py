"""Labelled images from where people have them, as pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from datasets import ClassLabel, Dataset, load_dataset
from torch import Tensor

from nlp_adv.data.files import cause
from nlp_adv.data.idx import read_idx
from nlp_adv.data.sources import SPLITS, known_splits, read_named
from nlp_adv.errors import UserError

_IDX = "*-images-idx*"
_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_IMAGE_COLUMNS = ("image", "img", "pixel_values")
_LABEL_COLUMNS = ("label", "labels", "fine_label")


class Images(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Images of one size with their classes; `images[i]` is (pixels (C, H, W) in [0, 1], class).

    Args:
        read: index → pixels, float32.
        labels: the class of each.
        label_names: of the classes.
    """

    def __init__(
        self, read: Callable[[int], Tensor], labels: Sequence[int], label_names: Sequence[str]
    ) -> None:
        self._read = read
        self.labels = list(labels)
        self.label_names = tuple(label_names)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._read(range(len(self))[index]), self.labels[index]

    def select(self, indices: Sequence[int]) -> Images:
        """Some of the images."""
        chosen, read = list(indices), self._read
        return Images(
            lambda index: read(chosen[index]), [self.labels[i] for i in chosen], self.label_names
        )

    def head(self, count: int) -> Images:
        """The first ones."""
        return self.select(range(min(count, len(self))))

    def drawn(self, count: int, seed: int) -> Images:
        """So many of them, drawn without replacement."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.select(order[:count].tolist())

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """x (B, C, H, W) and y (B,), in order.

        Raises:
            UserError: images of different sizes.
        """
        for start in range(0, len(self), size):
            rows = range(start, min(start + size, len(self)))
            yield stacked([self[row][0] for row in rows]), torch.tensor(self.labels[start:][:size])

    def check(self, what: str) -> None:
        """Read every image once, so that nothing is found in the middle of a training.

        Args:
            what: the split is called, for messages.

        Raises:
            UserError: an image cannot be read, or has another size than the first.

        Cost: as much as the reading of one pass over the data.
        """
        first = None
        for number in range(len(self)):
            shape = tuple(self._read(number).shape)
            first = first or shape
            if shape != first:
                raise UserError(
                    f"Image {number} of the {what} split: {_of_two_sizes(first, shape)}"
                )

    def in_classes(self, numbers: Sequence[int], names: Sequence[str]) -> Images:
        """The same images with the class number `numbers[k]` in place of k, and other names."""
        return Images(self._read, [numbers[label] for label in self.labels], names)

    def named_as(self, names: Sequence[str]) -> Images:
        """The same classes in a model's order: by name where all are known to it, else by number.

        Raises:
            UserError: the model does not have as many classes.
        """
        if set(self.label_names) <= set(names):
            order = [list(names).index(name) for name in self.label_names]
            return self.in_classes(order, names)
        if len(self.label_names) > len(names):
            raise UserError(
                f"The images have {len(self.label_names)} classes and the model {len(names)}; "
                f"give images of the classes that it was trained on."
            )
        return Images(self._read, self.labels, names)


def stacked(images: Sequence[Tensor]) -> Tensor:
    """(B, C, H, W) of images of one size.

    Raises:
        UserError: they are not.
    """
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise UserError(_of_two_sizes(*shapes[:2]))
    return torch.stack(list(images))


def _of_two_sizes(one: tuple[int, ...], other: tuple[int, ...]) -> str:
    return (
        f"Images differ in size, {one} and {other}; give a model that was saved with its image "
        f"processor, which brings them to one."
    )


def load_images(
    name: str,
    *,
    processor: Any = None,
    channels: int | None = None,
    config: str | None = None,
    token: str | None = None,
) -> dict[str, Images]:
    """Read images by split: "train", "validation", "test", as far as there are.

    A folder of IDX files may hold the names of its classes in `labels.txt`, one a line.

    Args:
        name: a folder of IDX files (train-images-idx3-ubyte.gz and so on); a folder with one
            sub-folder of pictures a class, or with such folders in train, validation and test; a
            `save_to_disk` folder; or a name on the Hub.
        processor: a Hugging Face image processor; it resizes and crops. Normalisation is not done.
        channels: 1 turns pictures grey, 3 makes grey ones RGB.
        config: of a data set on the Hub.
        token: of the Hub.

    Raises:
        UserError: nothing there, or nothing that can be read.
    """
    path = Path(name).expanduser()
    if path.is_dir() and any(path.glob(_IDX)):
        return {key: _idx_split(path, *pair, processor, channels) for key, pair in _idx_files(path)}
    found = read_named(name, config, token=token, from_folder=_from_pictures)
    splits = {key: _of_dataset(rows, name, processor, channels) for key, rows in found.items()}
    if not splits:
        raise UserError(f"{name} has no split named train, validation or test.")
    return splits


def holds_images(path: Path) -> bool:
    """Whether a folder is one that `load_images` reads, by a look at the names of its files."""
    if not path.is_dir():
        return False
    if any(path.glob(_IDX)) or any(is_picture(file) for file in path.rglob("*")):
        return True
    described = (*path.glob("dataset_info.json"), *path.glob("*/dataset_info.json"))
    return any('"Image"' in file.read_text(encoding="utf-8") for file in described)


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its name."""
    return path.suffix.lower() in _PICTURES


def _idx_files(path: Path) -> list[tuple[str, tuple[Path, Path]]]:
    found = {}
    for images in sorted(path.glob(_IDX)):
        labels = [path / images.name.replace("-images-idx3", "-labels-idx1")]
        labels += [labels[0].with_suffix(""), Path(f"{labels[0]}.gz")]
        there = next((file for file in labels if file.is_file()), None)
        if there is None:
            raise UserError(f"{images} has no labels beside it: {labels[0].name} is missing.")
        split = SPLITS.get(images.name.split("-")[0])
        if split is not None:
            found[split] = (images, there)
    return list(found.items())


def _idx_split(
    folder: Path, images: Path, labels: Path, processor: Any, channels: int | None
) -> Images:
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.ndim not in (3, 4) or classes.shape != pixels.shape[:1]:
        raise UserError(
            f"{images.name} in {folder} holds {tuple(pixels.shape)} and {labels.name} "
            f"{tuple(classes.shape)}; they should be (N, H, W) and (N,)."
        )
    names_file = folder / "labels.txt"
    names = [str(number) for number in range(int(classes.max()) + 1)]
    if names_file.is_file():
        names = names_file.read_text(encoding="utf-8").splitlines()[: len(names)]
    read = _prepared(lambda index: pixels[index].numpy(), processor, channels)
    return Images(read, classes.tolist(), names)


def _from_pictures(path: Path) -> dict[str, Dataset]:
    first = next(filter(is_picture, path.rglob("*")), None)
    if first is None:
        raise UserError(
            f"{path} holds no pictures; give a folder with one sub-folder a class, IDX files, or a "
            f"saved data set."
        )
    if first.parent == path:
        raise UserError(
            f"The pictures in {path} have no classes; put them in one sub-folder a class."
        )
    try:
        loaded = load_dataset("imagefolder", data_dir=str(path), drop_labels=False)
    except Exception as error:  # builders let through whatever their parser raises
        raise UserError(f"The images {path} could not be loaded ({cause(error)}).") from error
    return known_splits(loaded)


def held_out(splits: dict[str, Images], count: int, seed: int) -> dict[str, Images]:
    """The splits with so many training images as the validation split.

    Raises:
        UserError: they are all there are.
    """
    train = splits["train"]
    if count >= len(train):
        raise UserError(
            f"--validation_examples {count} leaves nothing of {len(train)} training images; give "
            f"fewer."
        )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    kept = {"train": train.select(order[count:]), "validation": train.select(order[:count])}
    return kept | {key: split for key, split in splits.items() if key != "train"}


def of_known_classes(splits: dict[str, Images]) -> dict[str, Images]:
    """The same, with the numbers of the training split's classes.

    Raises:
        UserError: another split has a class that is not trained.
    """
    train = splits["train"]
    known = {train.label_names[label] for label in train.labels}
    for key, split in splits.items():
        there = {split.label_names[label] for label in split.labels}
        if not there <= known:
            raise UserError(
                f"The {key} split has images of the class {min(there - known)}, of which there is "
                f"no training image: add some, or remove that class."
            )
    return {
        key: split if split.label_names == train.label_names else split.named_as(train.label_names)
        for key, split in splits.items()
    }


def check_grey(images: Images) -> None:
    """Refuse to take the colours out of pictures for a model of grey ones.

    Args:
        images: in three channels; those of a grey picture are equal.

    Raises:
        UserError: one of a few pictures is in colour.
    """
    for number in range(0, len(images), max(1, len(images) // 8)):
        x = images[number][0]
        if bool((x != x[:1]).any()):
            raise UserError(
                "The images are in colour and the model takes grey ones: give a model of 3 "
                "channels, or grey images."
            )


def _of_dataset(rows: Dataset, name: str, processor: Any, channels: int | None) -> Images:
    image = next((column for column in _IMAGE_COLUMNS if column in rows.column_names), None)
    label = next((column for column in _LABEL_COLUMNS if column in rows.column_names), None)
    if image is None or label is None:
        raise UserError(
            f"{name} has the columns {', '.join(rows.column_names)}; an image data set needs "
            f"{' or '.join(_IMAGE_COLUMNS)}, and {' or '.join(_LABEL_COLUMNS)}."
        )
    labels, feature = rows[label][:], rows.features[label]
    strange = next((one for one in labels if type(one) is not int or one < 0), None)
    if strange is not None or None in labels:
        raise UserError(
            f"{name} has an image with the label {strange!r} in {label!r}; labels are the numbers "
            f"of classes, from 0."
        )
    names = [str(number) for number in range(max(labels, default=0) + 1)]
    if isinstance(feature, ClassLabel):
        names = feature.names

    def decoded(index: int) -> Any:
        try:
            return rows[index][image]
        except Exception as error:  # Pillow's errors have no common base
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"Image {index} of {name} cannot be read ({reason}).") from error

    return Images(_prepared(decoded, processor, channels), labels, names)


def _prepared(
    raw: Callable[[int], Any], processor: Any, channels: int | None
) -> Callable[[int], Tensor]:
    """index → pixels, by way of the processor where an image does not have its size already."""
    size = getattr(processor, "size", None) or {}
    wanted = (size.get("height"), size.get("width"))

    def read(index: int) -> Tensor:
        pixels = _as_levels(raw(index), channels)
        if processor is not None and tuple(pixels.shape[-2:]) != wanted:
            made = processor([pixels], return_tensors="pt", do_normalize=False, do_rescale=False)
            resized: Tensor = made["pixel_values"][0].float() / 255
            return resized.clamp(0, 1)
        return torch.from_numpy(pixels).float() / 255

    return read


def _as_levels(image: Any, channels: int | None) -> numpy.ndarray[Any, Any]:
    """A picture or an array as uint8 (C, H, W)."""
    if hasattr(image, "convert"):
        image = image.convert({1: "L", 3: "RGB"}.get(channels or 0, image.mode))
    levels = numpy.asarray(image)
    if levels.ndim == 3 and levels.shape[-1] in (1, 3, 4) and levels.shape[0] not in (1, 3):
        levels = levels.transpose(2, 0, 1)
    if levels.ndim == 2:
        levels = levels[None]
    if levels.ndim != 3 or levels.dtype != numpy.uint8:
        raise UserError(
            f"An image is an array of shape {levels.shape} and type {levels.dtype}; pictures, or "
            f"arrays of 8-bit levels (H, W) or (H, W, C), can be read."
        )
    if channels == 3 and len(levels) == 1:
        levels = numpy.repeat(levels, 3, axis=0)
    if channels is not None and len(levels) != channels:
        raise UserError(f"An image has {len(levels)} channels and the model takes {channels}.")
    return numpy.array(levels, order="C")  # a copy: what Pillow lends cannot be written to
