"""Handwritten digits that need no download, for the demo and for trying things out.

They are the 1797 digits of 8×8 pixels that scikit-learn brings along (E. Alpaydin and C. Kaynak,
"Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998), each pixel
drawn four times as wide and as high.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from transformers import ResNetConfig, ResNetForImageClassification

from nlp_adv.data.images import Images

_MAGNIFIED = 4
_TEST = 397


def demo_images() -> dict[str, Images]:
    """1400 digits to train on and 397 to test on, 32×32, one channel."""
    digits = load_digits()
    pixels = torch.from_numpy(digits.images).float() / 16
    large = pixels.repeat_interleave(_MAGNIFIED, 1).repeat_interleave(_MAGNIFIED, 2)[:, None]
    order = torch.randperm(len(large), generator=torch.Generator().manual_seed(0)).tolist()

    def read(index: int) -> Tensor:
        return large[index]

    everything = Images(read, digits.target.tolist(), [str(digit) for digit in range(10)])
    return {
        "train": everything.select(order[:-_TEST]),
        "test": everything.select(order[-_TEST:]),
    }


def small_resnet(classes: int, channels: int, seed: int) -> ResNetForImageClassification:
    """A ResNet of three blocks, 16 to 64 channels wide: 78,000 weights for ten grey classes."""
    config = ResNetConfig(
        num_channels=channels,
        embedding_size=16,
        hidden_sizes=[16, 32, 64],
        depths=[1, 1, 1],
        layer_type="basic",
    )
    config.num_labels = classes
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResNetForImageClassification(config)
