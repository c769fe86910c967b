"""What `nlp-adv attack` attacks, and what it attacks with: everything loaded from flags."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nlp_adv.attacks.words.attacks.build import Resources
from nlp_adv.attacks.words.candidates import CandidateTable, Source, WordNet
from nlp_adv.attacks.words.constraints import Tagger
from nlp_adv.attacks.words.language_models import (
    MaskedLanguageModel,
    MeanPooledEncoder,
    Similarity,
)
from nlp_adv.attacks.words.own_functions import OwnFunction, found_at
from nlp_adv.attacks.words.predictor import Characters, Predictor, predictor_at
from nlp_adv.attacks.words.words import Segmenter, characters
from nlp_adv.cli.arguments import ModelArguments
from nlp_adv.cli.attack_arguments import chosen_split, shown_name
from nlp_adv.cli.loading import (
    check_embeddings,
    load,
    load_classifier_of,
    load_tokenizer,
    to_device,
)
from nlp_adv.cli.resource_folder import at_hand
from nlp_adv.cli.text_attack_arguments import TextVictimArguments
from nlp_adv.cli.word_arguments import SEGMENTERS, WordArguments
from nlp_adv.data.files import read_file
from nlp_adv.data.sources import read_splits
from nlp_adv.data.text import DataSource, check_rows, find_columns
from nlp_adv.errors import UserError
from nlp_adv.robustness.fingerprint import fingerprint


def load_victim(
    arguments: TextVictimArguments,
) -> tuple[PreTrainedModel | Predictor, PreTrainedTokenizerBase | Characters]:
    """The classifier, on its device, and its tokenizer; or a function and its characters.

    Raises:
        UserError: they cannot be had, or the model is no trained classifier.
    """
    function = predictor_at(arguments.model_name_or_path)
    if function is not None:
        return function, function.tokenizer
    kind, own = AutoModelForSequenceClassification, arguments.model_name_or_path
    model = load_classifier_of(kind, "model", own, arguments.hub(own), trained=True)
    if model.config.problem_type == "multi_label_classification":
        raise UserError(
            f"{own} answers yes or no to each label, and texts here have one right class; nlp-adv "
            f"train --task multi-label --do_train false measures it."
        )
    name = arguments.tokenizer_name or arguments.model_name_or_path
    tokenizer = load_tokenizer(name, arguments.hub(name))
    check_embeddings(model, tokenizer)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    to_device(model, arguments.device)
    return model, tokenizer


def load_texts(arguments: TextVictimArguments) -> tuple[Dataset, str]:
    """The labelled texts and what they are called.

    Raises:
        UserError: they cannot be read, or there is no such split.
    """
    if arguments.test_file:
        return read_file(Path(arguments.test_file)), Path(arguments.test_file).name
    source = DataSource(
        task_name=arguments.task_name,
        dataset_name=arguments.dataset_name,
        dataset_config_name=arguments.dataset_config_name,
        token=arguments.token,
    )
    splits = read_splits(source)
    # GLUE's test splits have no labels.
    usual = ("validation", "test") if arguments.task_name else ("test", "validation")
    name = chosen_split(splits, arguments.split, usual)
    called = arguments.task_name or shown_name(str(arguments.dataset_name))
    return splits[name], f"{called}, {name} split"


def load_training_texts(arguments: TextVictimArguments) -> list[str | tuple[str, ...]]:
    """The texts of --train_file; none without.

    Raises:
        UserError: the file cannot be read, or has no such columns.
    """
    if arguments.train_file is None:
        return []
    rows = read_file(Path(arguments.train_file))
    source = DataSource(
        text_columns=tuple(arguments.text_columns), label_column=arguments.label_column
    )
    columns, _ = find_columns(rows.column_names, source)
    check_rows(Path(arguments.train_file).name, rows, columns, columns, is_split=False)
    texts = [rows[column][:] for column in columns]
    return list(texts[0]) if len(texts) == 1 else list(zip(*texts, strict=True))


def load_resources(
    words: WordArguments, attacks: Sequence[str], model: ModelArguments, length: int
) -> Resources:
    """Candidate files, models and functions that the flags name.

    Args:
        words: these flags.
        attacks: which need them.
        model: how the Hub is reached.
        length: tokens after which texts are cut.

    Raises:
        UserError: one cannot be had.
    """
    goal = getattr(words, "goal", None)
    return Resources(
        neighbours=_neighbours(words.neighbours, attacks),
        synonyms=_synonyms(words.wordnet, attacks),
        masked_lm=_masked_lm(words.masked_lm, model, length) if words.masked_lm else None,
        encoder=_encoder(words.encoder, model) if words.encoder else None,
        tagger=_tagger(words.tagger) if words.tagger else None,
        segmenter=_segmenter(words.segmenter) if words.segmenter else None,
        constraints=[own_function("constraints", place) for place in words.constraints],
        goal=own_function("goal", goal) if goal else None,
        tagger_name=words.tagger or "",
        segmenter_name=words.segmenter if words.segmenter in SEGMENTERS else "",
    )


def own_function(flag: str, place: str) -> OwnFunction:
    """The user's function that a flag names.

    Raises:
        UserError: the flag is of another form, or there is no such function.
    """
    found = found_at(place)
    if found is None:
        raise UserError(f"--{flag} is {place!r}; write FILE.py:FUNCTION.")
    return OwnFunction.of(flag.removesuffix("s"), found.value, found)


def _neighbours(file: str | None, attacks: Sequence[str]) -> CandidateTable | None:
    """The file, or else those that were fetched, for attacks that take neighbours."""
    place: str | Path | None = file
    if place is None and {"textfooler", "a2t", "genetic", "textbugger"} & set(attacks):
        place = at_hand("neighbours")
    return None if place is None else CandidateTable(place)


def _synonyms(wordnet: str | None, attacks: Sequence[str]) -> Source | None:
    if wordnet is None:
        if "pwws" not in attacks:
            return None
        place = at_hand("wordnet")
        return WordNet() if place is None else WordNet(place.with_suffix(""))
    is_table = Path(wordnet).suffix in (".json", ".gz")
    return CandidateTable(wordnet) if is_table else WordNet(wordnet)


def _masked_lm(name: str, model: ModelArguments, length: int) -> MaskedLanguageModel:
    hub = model.hub(name)
    found = load(AutoModelForMaskedLM, "masked language model", name, hub)
    tokenizer = load_tokenizer(name, hub)
    if tokenizer.mask_token is None:
        raise UserError(f"{name} has no mask token; name a masked language model.")
    digits = fingerprint(found)
    return MaskedLanguageModel(
        to_device(found, None), tokenizer, max_length=length, fingerprint=digits
    )


def _encoder(name: str, model: ModelArguments) -> Similarity:
    hub = model.hub(name)
    with torch.random.fork_rng():
        # A pooler that the file lacks is drawn. Means need none, but it is in the fingerprint.
        torch.manual_seed(0)
        found = load(AutoModel, "sentence encoder", name, hub)
    encoder = MeanPooledEncoder(to_device(found, None), load_tokenizer(name, hub))
    return Similarity(encoder, fingerprint(found))


def _tagger(name: str) -> Tagger:
    if name != "nltk":
        raise UserError(f"There is no tagger {name!r}; --tagger can be nltk.")
    try:
        import nltk

        nltk.pos_tag(["a", "word"], tagset="universal")
    except ImportError as error:
        raise UserError("--tagger nltk needs NLTK: pip install nltk.") from error
    except LookupError as error:
        raise UserError(
            "NLTK has no tagger data: python -m nltk.downloader averaged_perceptron_tagger_eng "
            "universal_tagset."
        ) from error

    def tags(words: list[str]) -> list[str]:
        return [tag for _, tag in nltk.pos_tag(words, tagset="universal")]

    return tags


def _segmenter(name: str) -> Segmenter:
    """A known one, or a function in a file that is named as one: nothing that is installed."""
    if name.partition(":")[0].endswith(".py"):
        return own_function("segmenter", name)
    if name not in SEGMENTERS:
        raise UserError(
            f"There is no segmenter {name!r}; --segmenter can be {', '.join(SEGMENTERS)}, or "
            f"FILE.py:FUNCTION."
        )
    if name == "characters":
        return characters
    try:
        if name == "jieba":
            found: Segmenter = import_module("jieba").lcut
        else:
            found = import_module("pythainlp.tokenize").word_tokenize
    except ImportError as error:
        raise UserError(f"--segmenter {name} needs its package: pip install {name}.") from error
    return found
