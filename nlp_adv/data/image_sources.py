"""Where images come from: IDX files, folders of pictures, saved data sets, the Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from datasets import ClassLabel, Dataset, load_dataset
from torch import Tensor

from nlp_adv.data.files import cause
from nlp_adv.data.idx import read_idx
from nlp_adv.data.images import Images
from nlp_adv.data.sources import SPLITS, known_splits, read_named
from nlp_adv.errors import UserError

_IDX = "*-images-idx*"
_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_IMAGE_COLUMNS = ("image", "img", "pixel_values")
_LABEL_COLUMNS = ("label", "labels", "fine_label")


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
