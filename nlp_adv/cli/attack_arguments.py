"""The flags of `nlp-adv attack` and `nlp-adv evaluate`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlp_adv.attacks.words.attacks.build import ATTACKS
from nlp_adv.attacks.words.protocols import PROTOCOLS, Protocol, protocol_named
from nlp_adv.cli.arguments import check_radii
from nlp_adv.cli.parser import FlagParser
from nlp_adv.errors import UserError
from nlp_adv.robustness.embedding import STEP_SIZE, embedding_pgd
from nlp_adv.robustness.white_box import WhiteBox

SEGMENTERS = ("characters", "jieba", "pythainlp")


def _flag(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class VictimArguments:
    """The attacked model and the texts."""

    model_name_or_path: str = _flag("A folder with a saved classifier, or a name on the Hub.", "")
    tokenizer_name: str | None = _flag("Its tokenizer, where it is somewhere else.")
    model_revision: str = _flag("Branch, tag or commit on the Hub.", "main")
    cache_dir: str | None = _flag("Where downloads from the Hub are kept.")
    test_file: str | None = _flag("Texts with labels: csv, tsv, json, jsonl, their .gz, parquet.")
    dataset_name: str | None = _flag("Or a name on the Hub, a saved data set, a folder of files.")
    dataset_config_name: str | None = _flag("Configuration of a data set on the Hub.")
    task_name: str | None = _flag("Or a GLUE task.")
    split: str | None = _flag("Of a data set with several: test where it has labels, by default.")
    train_file: str | None = _flag("Training texts, to say how many of the attacked are in them.")
    text_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "The text column, or two for pairs; usual names are found."},
    )
    label_column: str | None = _flag("The label column; the usual names are found.")
    max_seq_length: int = _flag("Longest input in tokens; longer ones are cut.", 128)
    device: str | None = _flag(
        "Where the model runs: cuda, cpu, …; an accelerator if there is one."
    )


@dataclass
class AttackArguments:
    """What is tried on it."""

    attacks: list[str] = field(
        default_factory=lambda: ["deepwordbug"],
        metadata={"help": f"Any of {', '.join(ATTACKS)}."},
    )
    protocol: str = _flag(
        f"What attacks may do: {', '.join(PROTOCOLS)}, or a .json file with the fields of one.",
        "default",
    )
    neighbours: str | None = _flag("A file {word: [candidates]}: textfooler, a2t, textbugger.")
    wordnet: str | None = _flag("WordNet's folder, or a file {word: [candidates]}: pwws.")
    masked_lm: str | None = _flag("A masked language model: bae, bert-attack.")
    encoder: str | None = _flag("A sentence encoder (mean-pooled), where the protocol has one.")
    tagger: str | None = _flag("nltk: NLTK's tagger, where the protocol compares parts of speech.")
    segmenter: str | None = _flag(
        f"What finds words that no spaces part (Chinese, Japanese, Thai): {', '.join(SEGMENTERS)}."
    )
    target: int | None = _flag("Attack towards this class; any wrong answer without.")
    max_examples: int | None = _flag("Attack a random draw of so many texts.")
    seed: int = _flag("Of the draw and of the attacks.", 0)
    shard: str | None = _flag("Attack only part i of n: i/n; report puts the parts together.")
    tokens_per_batch: int | None = _flag(
        "Of the model, with padding; chosen by the device, and halved when memory ends."
    )
    output_dir: str = _flag("Where records.jsonl and the report go.", "")


@dataclass
class EmbeddingArguments:
    """The attack on word embeddings and the masking checks (evaluate)."""

    epsilons: list[float] = field(
        default_factory=lambda: [0.01, 0.02, 0.04, 0.08],
        metadata={
            "help": "Radii of the PGD on embeddings, as shares of the norm of a whole text's "
            "embeddings. One token may get all of it: at ε it moves by √tokens·ε of one token's "
            "norm (L2), so the same ε is more in longer texts."
        },
    )
    embedding_steps: int = _flag("Its steps.", 20)
    embedding_step_size: float = _flag(
        "Length of the first one, in shares of ε; they shorten to nothing.", STEP_SIZE
    )
    embedding_restarts: int = _flag("Its starts.", 1)
    embedding_norm: str = _flag("l2 or linf.", "l2")
    embedding_per: str = _flag("One constraint an example, or a token.", "example")
    embedding_examples: int = _flag("Attack the embeddings of the first so many drawn texts.", 200)
    checks: bool = _flag("Run the masking checks.", True)
    check_examples: int = _flag("With the first so many texts.", 100)

    def white_box(self) -> WhiteBox | None:
        """What is tried on the embeddings; None without radii.

        Raises:
            UserError: a number that is out of range.
        """
        check_radii("epsilons", self.epsilons)
        if not self.epsilons:
            return None
        if min(self.embedding_examples, self.check_examples) < 1:
            raise UserError("--embedding_examples and --check_examples must be at least 1.")
        if self.embedding_per not in ("example", "token"):
            raise UserError("--embedding_per can be example or token.")
        try:
            attack = embedding_pgd(
                tuple(self.epsilons),
                steps=self.embedding_steps,
                step_size=self.embedding_step_size,
                restarts=self.embedding_restarts,
                norm=self.embedding_norm,
                per="token" if self.embedding_per == "token" else "example",
            )
        except ValueError as error:
            raise UserError(f"The attack on embeddings: {error}") from error
        return WhiteBox(attack, self.embedding_examples, self.checks, self.check_examples)


def parse(argv: list[str], command: str, *kinds: type) -> list[Any]:
    """A command line, or a file of flags, as dataclasses.

    Raises:
        UserError: an unknown flag, a value of the wrong type, or a required flag that is missing.
    """
    parser = FlagParser(
        kinds,
        prog=f"nlp-adv {command}",
        usage=f"nlp-adv {command} --model_name_or_path DIR --test_file FILE [flags]",
        epilog="nlp-adv attack --modality image attacks images: its own --help lists its flags.",
    )
    parsed = parser.read_all(argv)
    victim, attack = parsed[0], parsed[1]
    if not victim.model_name_or_path:
        raise UserError("Name the attacked model: --model_name_or_path FOLDER_OR_NAME.")
    if sum(map(bool, (victim.test_file, victim.dataset_name, victim.task_name))) != 1:
        raise UserError("Name the texts: one of --test_file, --dataset_name and --task_name.")
    if not attack.output_dir:
        raise UserError("Name a folder for the results: --output_dir FOLDER.")
    if any(n is not None and n < 1 for n in (victim.max_seq_length, attack.tokens_per_batch)):
        raise UserError("--tokens_per_batch and --max_seq_length must be at least 1.")
    return parsed


def chosen_protocol(name: str) -> Protocol:
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
