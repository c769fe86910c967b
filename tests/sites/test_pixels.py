"""Pixels in [0, 1]: normalisation inside the model, ranges that are checked, radii as written."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import ViTImageProcessor

from nlp_adv import UserError
from nlp_adv.sites.normalisation import (
    Pixels,
    check_pixels,
    logits_of,
    parse_epsilon,
    processor_statistics,
)


def test_the_model_sees_normalised_images():
    model = Pixels(nn.Identity(), mean=[0.2, 0.4], std=[0.5, 2.0])
    x = torch.rand(3, 2, 4, 4)
    z = model(x)
    torch.testing.assert_close(z[:, 0], (x[:, 0] - 0.2) / 0.5)
    torch.testing.assert_close(z[:, 1], (x[:, 1] - 0.4) / 2.0)
    torch.testing.assert_close(model.pixels(z), x)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"do_rescale": False, "image_mean": [100.0] * 3, "image_std": [50.0] * 3},
    ],
    ids=str,
)
def test_a_processor_says_what_its_model_sees(settings):
    """Pixels through `Pixels.from_processor` are what the processor makes of the grey levels."""
    processor = ViTImageProcessor(size={"height": 8, "width": 8}, **settings)
    levels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    made = processor(list(levels.numpy()), return_tensors="pt", do_resize=False)["pixel_values"]
    model = Pixels.from_processor(nn.Identity(), processor)
    torch.testing.assert_close(model(levels / 255), made.float(), atol=1e-4, rtol=1e-4)


def test_an_offset_counts():
    """EfficientNet's processors take 1 off after rescaling."""
    odd = SimpleNamespace(rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False)
    mean, std = processor_statistics(odd)
    model = Pixels(nn.Identity(), mean, std)
    torch.testing.assert_close(
        model(torch.tensor([[[[0.0, 1.0]]]])).flatten(), torch.tensor([-1.0, 1.0])
    )


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(1, 3, 4, 4) * 255, "divide by 255"),
        (torch.randn(1, 3, 4, 4), r"Pixels\(model, mean, std\)"),
        (torch.full((1, 3, 4, 4), 999.0), "look for inf and nan"),
        (torch.full((1, 3, 4, 4), torch.nan), "nan"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r"x.float\(\) / 255"),
        (torch.zeros(0, 3, 4, 4), "no pixels"),
        (torch.zeros(4), "shape"),
        ([[0.5]], "must be a tensor"),
    ],
)
def test_what_is_no_pixels_is_refused_with_its_range(x, message):
    with pytest.raises(UserError, match=message):
        check_pixels(x)


def test_pixels_are_pixels_up_to_their_ends():
    x = torch.tensor([[0.0, 1.0]])
    assert torch.equal(check_pixels(x), x)


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.03", 0.03), (0.5, 0.5), ("0", 0)]
)
def test_radii_as_they_are_written(text, value):
    assert parse_epsilon(text) == value


@pytest.mark.parametrize("text", ["8 of 255", "-1/255", "1/0", "nan", "inf", ""])
def test_what_is_no_radius(text):
    with pytest.raises(UserError, match=r"such as 0\.03 or 8/255"):
        parse_epsilon(text)


@pytest.mark.parametrize(
    "output", [torch.zeros(3), torch.zeros(3, 1), SimpleNamespace(logits=None), None]
)
def test_what_has_no_logits(output):
    with pytest.raises(UserError, match="needs logits"):
        logits_of(output)


def test_a_std_of_zero_is_refused():
    with pytest.raises(UserError, match="positive"):
        Pixels(nn.Identity(), 0.5, [0.5, 0.0])
