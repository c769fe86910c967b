"""Labelled images, as pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from nlp_adv.errors import UserError


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
