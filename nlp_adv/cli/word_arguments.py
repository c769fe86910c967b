"""The flags of attacks on words that evaluation and training share, and the protocol they name."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nlp_adv.attacks.words.protected import settled_phrases
from nlp_adv.attacks.words.protocols import PROTOCOLS, Protocol, protocol_named
from nlp_adv.cli.arguments import flag
from nlp_adv.errors import UserError

SEGMENTERS = ("characters", "jieba", "pythainlp")


@dataclass
class WordArguments:
    """What attacks on words may do, and what they need."""

    protocol: str = flag(
        f"Attacks may do what this protocol says: {', '.join(PROTOCOLS)}, or a .json file with the "
        f"fields of one.",
        "default",
    )
    stop_words: str | None = flag(
        "Do not touch these stop words, instead of the protocol's: english, scikit-learn, none, or "
        "a file with a word a line."
    )
    protected_words: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Do not touch these words and phrases either, or those of files (.txt with one "
            "a line, .json with a list)."
        },
    )
    constraints: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Try only what these functions allow, each FILE.py:FUNCTION of the original "
            "text and a list of changed ones, which returns True or False for each."
        },
    )
    neighbours: str | None = flag(
        "Take neighbours of words from this file {word: [candidates]}, instead of those of "
        "nlp-adv resources: textfooler, a2t, genetic, textbugger."
    )
    wordnet: str | None = flag(
        "Take synonyms from WordNet's folder, or from a file {word: [candidates]}: pwws."
    )
    masked_lm: str | None = flag(
        "Let this masked language model propose words: bae, bert-attack, clare."
    )
    encoder: str | None = flag(
        "Compare sentences with this encoder (mean-pooled), where the protocol has one."
    )
    tagger: str | None = flag("nltk: NLTK's tagger, where the protocol compares parts of speech.")
    segmenter: str | None = flag(
        f"What finds words that no spaces part (Chinese, Japanese, Thai): {', '.join(SEGMENTERS)}, "
        f"or FILE.py:FUNCTION, of a text, that returns its words or their (start, end)."
    )


@dataclass
class WordTrainingArguments(WordArguments):
    """Attacks on words while training."""

    adv_words: str = flag(
        "As epochs begin, attack training texts with this attack of `nlp-adv attack`, and train on "
        "what fools the model beside all others; with any --adv.",
        "none",
    )
    adv_words_share: float = flag(
        "Of the training texts that are attacked; an epoch is longer by it.",
        0.2,
    )
    adv_words_every: int = flag("Epochs from one attack to the next.", 1)
    adv_words_start_epoch: int = flag("So many epochs come before the first attack.", 1)


def chosen_protocol(arguments: WordArguments) -> Protocol:
    """The protocol that flags name, with their own words instead of its.

    Raises:
        UserError: it is not there, or words cannot be read.
    """
    protocol, own = _protocol_of(arguments.protocol), dict[str, Any]()
    if arguments.stop_words is not None:
        own["stop_words"] = arguments.stop_words
    if arguments.protected_words:
        own["protected"] = (*protocol.protected, *settled_phrases(arguments.protected_words))
    if not own:
        return protocol
    # The package's own names stand for their numbers alone.
    return replace(protocol, name=f"{protocol.name} with own words", **own)


def _protocol_of(name: str) -> Protocol:
    """A protocol by name, or from a .json file.

    Raises:
        UserError: there is none of that name, or the file does not hold one.
    """
    if not name.endswith(".json"):
        return protocol_named(name)
    try:
        settings = json.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{name} cannot be read as JSON: {error}.") from error
    known = [one.name for one in dataclasses.fields(Protocol)]
    if not isinstance(settings, dict) or not {"name"} <= set(settings) <= set(known):
        raise UserError(
            f"{name} must hold a name and other fields of a protocol: {', '.join(known)}."
        )
    if settings["name"] in PROTOCOLS:
        raise UserError(f"{name}: {settings['name']!r} is the package's own; choose another name.")
    try:
        return Protocol(**settings)
    except TypeError as error:
        raise UserError(f"{name}: a field has a value of the wrong type ({error}).") from error
