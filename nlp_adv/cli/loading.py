"""Models, tokenizers and image processors, from a folder or the Hub."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nlp_adv.data.files import cause
from nlp_adv.errors import UserError, foreign_code
from nlp_adv.perturbation.evaluating import evaluating
from nlp_adv.sites.normalisation import Pixels

PROCESSOR = "image processor (preprocessor_config.json)"


def load(kind: Any, what: str, name: str, hub: dict[str, Any], **more: Any) -> Any:
    """`kind.from_pretrained(name)`.

    Args:
        kind: an Auto class of transformers.
        what: it is, for messages.
        name: a folder or a name on the Hub.
        hub: keywords that say how the Hub is asked.
        **more: other keywords.

    Raises:
        UserError: it is not there, damaged, or does not fit.
    """
    try:
        return kind.from_pretrained(name, **{"trust_remote_code": False, **hub, **more})
    except Exception as error:  # damaged files fail in any way
        raise _not_found(what, name, error) from error


def _not_found(what: str, name: str, error: Exception) -> UserError:
    if "trust_remote_code" in str(error):
        return UserError(foreign_code(what, name))
    if "mismatch" in str(error):
        return UserError(
            f"The {what} {name!r} has a head for other labels than the data; give the folder or "
            f"name of the model without that head, or begin with a new one: "
            f"--ignore_mismatched_sizes."
        )
    if Path(str(name)).is_dir():
        return UserError(f"The folder {name} holds no usable {what}: {cause(error)}.")
    return UserError(
        f"The {what} {name!r} is no folder here and could not be loaded from the Hub "
        f"({cause(error)}); check the name and the network, or give the folder of a saved model."
    )


def load_classifier_of(
    kind: Any, what: str, name: str, hub: dict[str, Any], *, trained: bool, **more: Any
) -> PreTrainedModel:
    """A classifier, and whether its head was trained.

    Args:
        trained: refuse one whose head is made anew.
        kind, what, name, hub, **more: as `load` takes them.

    Raises:
        UserError: as `load` does, or a head that is not there.
    """
    model, info = load(kind, what, name, hub, output_loading_info=True, **more)
    if trained:
        _check_head(model.config, kind, name)
    if trained and (info["missing_keys"] or info["mismatched_keys"]):
        lacking = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))[0]
        raise UserError(
            f"{name} holds no trained classifier: {lacking} is missing; fine-tune it first "
            f"(nlp-adv train)."
        )
    loaded: PreTrainedModel = model
    return loaded


def _check_head(config: Any, kind: Any, name: str) -> None:
    """Refuse a head of another kind, whose weights may be called alike."""
    wanted = kind.__name__.rpartition("For")[2]
    for saved in config.architectures or ():
        _, found, head = str(saved).rpartition("For")
        if found and head != wanted:
            raise UserError(
                f"{name} was saved as {saved}, which is no model for {_in_words(wanted)}; models "
                f"of tokens and of language are evaluated by nlp-adv train --task … "
                f"--do_train false."
            )


def _in_words(head: str) -> str:
    """SequenceClassification → sequence classification."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", head).lower().replace("lm", "LM")


def say_new_head(config: Any, name: str, classes: int) -> None:
    """Say of a classifier of other classes that its head is made anew."""
    classifies = any("Classification" in str(one) for one in config.architectures or ())
    if classifies and config.num_labels != classes:
        print(
            f"Note: {name} tells {config.num_labels} classes apart and the data has {classes}: "
            f"its head begins anew.",
            file=sys.stderr,
        )


def load_tokenizer(name: str, hub: dict[str, Any]) -> PreTrainedTokenizerBase:
    """A tokenizer that can pad; decoder-only models come without a token for it.

    Raises:
        UserError: it cannot be had, or there is no token to take for padding.
    """
    tokenizer: PreTrainedTokenizerBase = load(AutoTokenizer, "tokenizer", name, hub)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(
                f"The tokenizer {tokenizer.name_or_path} has neither a padding token nor an end "
                f"token, so texts of unlike length make no batch; save it with one: "
                f"tokenizer.pad_token = …"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make sure that the model has an embedding for whatever the tokenizer makes of a text.

    Special tokens that were added and have no role, such as those for images, are left out.

    Raises:
        UserError: it has not.
    """
    rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    used = set(tokenizer.special_tokens_map.values())
    idle = {n for n, token in added.items() if token.special and str(token) not in used}
    largest = max(set(tokenizer.get_vocab().values()) - idle, default=0)
    if rows is not None and largest >= rows:
        raise UserError(
            f"The tokenizer has tokens up to number {largest}, and the model has embeddings for "
            f"{rows}: they do not belong together; give the model's own (--tokenizer_name)."
        )


def check_room(model: PreTrainedModel, tokenizer: Any, ids: list[int]) -> None:
    """Make sure that the model takes a text of so many tokens.

    Args:
        model: on its device.
        tokenizer: pads.
        ids: of the longest text of the data.

    Raises:
        UserError: it does not.
    """

    def refusal(ids: list[int]) -> Exception | None:
        batch = tokenizer.pad([{"input_ids": ids}], return_tensors="pt")
        try:
            with evaluating(model), torch.no_grad():
                model(**batch.to(model.device))
        except (IndexError, RuntimeError) as error:
            return error
        return None

    error = refusal(ids)
    # A model that takes no text at all here may still take one on its own device.
    if error is not None and refusal(ids[:1]) is None:
        raise UserError(
            f"The model has no place for a text of {len(ids)} tokens, the longest of the "
            f"data ({cause(error)}); pass a smaller --max_seq_length."
        ) from error


def check_reads_on(model: PreTrainedModel, tokenizer: Any, ids: list[int]) -> None:
    """Make sure that no answer of a language model sees the token it is about.

    An encoder loads as a language model as well, and reads the next token off its input.

    Args:
        model: a language model.
        tokenizer: pads.
        ids: of a text of two tokens or more.

    Raises:
        UserError: the model's answers change with later tokens.
    """
    rows = [{"input_ids": ids}, {"input_ids": [*ids[:-1], 0 if ids[-1] else 1]}]
    batch = tokenizer.pad(rows, return_tensors="pt").to(model.device)
    with evaluating(model), torch.no_grad():
        first, second = model(**batch).logits[:, :-1].float()
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-3):
        raise UserError(
            f"{type(model).__name__} sees the tokens that it is to predict (its answers change "
            f"with later ones), so that its perplexity would mean nothing; give a model that "
            f"reads from left to right, such as GPT-2."
        )


def to_device(model: torch.nn.Module, name: str | None) -> torch.nn.Module:
    """The model on a device; on the accelerator, if there is one, where none is named.

    Of several processes on a machine each takes the next accelerator.

    Raises:
        UserError: the device cannot be used.
    """
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"  # accelerate launch --cpu
    has_own = torch.accelerator.is_available() and not on_cpu
    own = torch.accelerator.current_accelerator() if has_own else None
    try:
        device = torch.device(name) if name else own or torch.device("cpu")
        place = os.environ.get("LOCAL_RANK", "")
        if own is not None and device == torch.device(own.type) and place.isdecimal():
            device = torch.device(own.type, int(place) % torch.accelerator.device_count())
        return torch.nn.Module.to(model, device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used: {first}") from error


@dataclass(frozen=True)
class LoadedClassifier:
    """A classifier of images on pixels, and what belongs to it.

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


def load_classifier(name: str, **hub: Any) -> LoadedClassifier:
    """An image classifier and its image processor, from a folder or the Hub.

    Args:
        name: the folder, or the name on the Hub.
        **hub: keywords of `from_pretrained`: revision, cache_dir, token.

    Raises:
        UserError: one of them is not there, or is for something else.
    """
    processor = load(AutoImageProcessor, PROCESSOR, name, hub)
    model = load(AutoModelForImageClassification, "image classifier", name, hub)
    labels = tuple(label for _, label in sorted(model.config.id2label.items()))
    return LoadedClassifier(Pixels.from_processor(model.eval(), processor), processor, labels)
