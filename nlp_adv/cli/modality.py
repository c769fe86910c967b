"""What a command is about: said by `--modality`, or found from model and data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal, cast, get_args

from nlp_adv.cli.flags import values_of
from nlp_adv.errors import UserError

About = Literal["text", "image", "chat"]
"""Labelled texts, labelled images, or prompts of language models, which only `--modality` says."""

_LOOKED_AT = ("modality", "model_name_or_path", "config_name", "dataset_name")
_OF_THE_HUB = ("model_revision", "cache_dir", "token")
_HEADS = {"ForImageClassification": "image", "ForSequenceClassification": "text"}


def modality(argv: list[str]) -> About:
    """What a command line is about: as it says, else as its model's configuration, else its data.

    Raises:
        UserError: `--modality` is something else than text, image or chat.
    """
    given = values_of(argv, (*_LOOKED_AT, *_OF_THE_HUB))
    found, name = given["modality"], given["model_name_or_path"] or given["config_name"]
    if found is not None and found not in get_args(About):
        raise UserError(f"--modality is text, image or chat, not {found!r}.")
    if found is None and re.search(r"\.py:\w+$", name or ""):  # a function of texts
        found = "text"
    if found is None and name:
        found = _of_configuration(_configuration(name, given))
    if found is None and given["dataset_name"]:
        from nlp_adv.data.image_sources import holds_images

        found = "image" if holds_images(Path(given["dataset_name"]).expanduser()) else None
    return cast(About, found or "text")


def _configuration(name: str, given: dict[str, str | None]) -> dict[str, Any]:
    """What a configuration says, empty where it cannot be had: loading the model says why."""
    path = Path(name).expanduser()
    file = path / "config.json" if path.is_dir() else path
    try:
        if file.is_file():
            return dict(json.loads(file.read_text(encoding="utf-8")))
        if path.is_dir() or path.is_absolute() or name.count("/") > 1:
            return {}
        from transformers import PretrainedConfig

        revision = given["model_revision"] or "main"
        hub = {"revision": revision, "cache_dir": given["cache_dir"], "token": given["token"]}
        return dict(PretrainedConfig.get_config_dict(name, **hub)[0])
    except (OSError, ValueError, TypeError):
        return {}


def _of_configuration(config: dict[str, Any]) -> str | None:
    """By the head of the model that was saved, else by what models of its type there are."""
    for architecture in config.get("architectures") or ():
        for head, found in _HEADS.items():
            if str(architecture).endswith(head):
                return found
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )

    kind = config.get("model_type")
    of_images = kind in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    of_texts = kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    return None if of_images == of_texts else ("image" if of_images else "text")
