"""Attacks on texts: their flags, what they need, and the run."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nlp_adv.attacks import Ladder, ladder
from nlp_adv.attacks.registry import SMALLEST, Settings, build_attack
from nlp_adv.attacks.words.attacks.build import ATTACKS, check_attacks
from nlp_adv.attacks.words.protocols import PROTOCOLS, Protocol, protocol_named
from nlp_adv.cli.arguments import check_counts, check_radii, flag
from nlp_adv.cli.attack import Attacked, AttackTask
from nlp_adv.cli.attack_arguments import AttackArguments, VictimArguments, class_number
from nlp_adv.cli.evaluations import model_name, saved_report
from nlp_adv.cli.victim import (
    SEGMENTERS,
    load_resources,
    load_texts,
    load_training_texts,
    load_victim,
)
from nlp_adv.data.class_names import classes_of
from nlp_adv.errors import UserError
from nlp_adv.robustness.embedding import STEP_SIZE, embedding_pgd
from nlp_adv.robustness.evaluation import evaluate_robustness
from nlp_adv.robustness.record import Record
from nlp_adv.robustness.scaled_logits import scaled_logits
from nlp_adv.robustness.shards import Shard
from nlp_adv.robustness.white_box import WhiteBox
from nlp_adv.sites.parse import parse_site


@dataclass
class TextVictimArguments(VictimArguments):
    """The attacked model and the texts."""

    tokenizer_name: str | None = flag("Its tokenizer, where it is somewhere else.")
    test_file: str | None = flag("Texts with labels: csv, tsv, json, jsonl, their .gz, parquet.")
    dataset_name: str | None = flag("Or a name on the Hub, a saved data set, a folder of files.")
    task_name: str | None = flag("Or a GLUE task.")
    train_file: str | None = flag("Training texts, to say how many of the attacked are in them.")
    text_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "The text column, or two for pairs; usual names are found."},
    )
    label_column: str | None = flag("The label column; the usual names are found.")
    max_seq_length: int = flag("Longest input in tokens; longer ones are cut.", 128)


@dataclass
class TextAttackArguments(AttackArguments):
    """What is tried on it."""

    attacks: list[str] = field(
        default_factory=lambda: ["deepwordbug"],
        metadata={"help": f"Any of {', '.join(ATTACKS)}."},
    )
    protocol: str = flag(
        f"What attacks may do: {', '.join(PROTOCOLS)}, or a .json file with the fields of one.",
        "default",
    )
    neighbours: str | None = flag("A file {word: [candidates]}: textfooler, a2t, textbugger.")
    wordnet: str | None = flag("WordNet's folder, or a file {word: [candidates]}: pwws.")
    masked_lm: str | None = flag("A masked language model: bae, bert-attack.")
    encoder: str | None = flag("A sentence encoder (mean-pooled), where the protocol has one.")
    tagger: str | None = flag("nltk: NLTK's tagger, where the protocol compares parts of speech.")
    segmenter: str | None = flag(
        f"What finds words that no spaces part (Chinese, Japanese, Thai): {', '.join(SEGMENTERS)}."
    )
    shard: str | None = flag("Attack only part i of n: i/n; report puts the parts together.")
    tokens_per_batch: int | None = flag(
        "Of the model, with padding; chosen by the device, and halved when memory ends."
    )


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
    embedding_steps: int = flag("Its steps.", 20)
    embedding_step_size: float = flag(
        "Length of the first one, in shares of ε; they shorten to nothing.", STEP_SIZE
    )
    embedding_restarts: int = flag("Its starts.", 1)
    embedding_norm: str = flag("l2 or linf.", "l2")
    embedding_per: str = flag("One constraint an example, or a token.", "example")
    embedding_examples: int = flag("Attack the embeddings of the first so many drawn texts.", 200)
    embedding_attacks: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Further attacks there: any of fgsm, fgm, bim, mi-fgsm, apgd and noise at the "
            "same radii; deepfool, cw and smallest-pgd, which look for each text's robust radius, "
            "the smallest δ that changes its answer."
        },
    )
    embedding_site: str | None = flag(
        "Where these attacks add δ instead of the word embeddings: layer:NAME (the output of any "
        "module, such as layer:bert.encoder.layer.3), embedding:NAME, or several with commas."
    )
    checks: bool = flag("Run the masking checks.", True)
    check_examples: int = flag("With the first so many texts.", 100)

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
        where: str = self.embedding_site or "embedding"
        site = None
        if self.embedding_site is not None:
            site = parse_site(self.embedding_site)
            if site is None:
                raise UserError("--embedding_site: texts have no pixels.")
        return WhiteBox(
            replace(attack, name=attack.name.replace("embedding", where)),
            self.embedding_examples,
            self.checks,
            self.check_examples,
            tuple(self._others(where)),
            site,
            "the embeddings" if site is None else where,
        )

    def _others(self, where: str) -> Iterator[Ladder]:
        """Further attacks, by name."""
        pgd = embedding_pgd((1.0,), self.embedding_steps, norm=self.embedding_norm).attack
        settings = Settings(
            replace(pgd.ball, per=self.embedding_per),
            self.embedding_step_size,
            unit="relative",
            steps=self.embedding_steps,
            shorten=True,
            loss="margin",
            restarts=self.embedding_restarts,
        )
        for name in dict.fromkeys(self.embedding_attacks):
            attack = build_attack(name, settings)
            radii = () if name in SMALLEST else tuple(self.epsilons)
            yield ladder(attack, radii, name=f"{where}-{attack.name}")


class TextAttack(AttackTask):
    """Words and characters; with `evaluate` the word embeddings and the checks as well."""

    modality, other = "text", "image"
    data_usage = "--test_file FILE"
    victim: TextVictimArguments
    attack: TextAttackArguments

    def __init__(self, command: str, parsed: Sequence[Any]) -> None:
        super().__init__(command, parsed)
        victim = self.victim
        self._embedding: EmbeddingArguments | None = parsed[2] if len(parsed) > 2 else None
        if not victim.model_name_or_path:
            return  # the first thing to be said
        if sum(map(bool, (victim.test_file, victim.dataset_name, victim.task_name))) != 1:
            raise UserError("Name the texts: one of --test_file, --dataset_name and --task_name.")
        check_counts(victim, "max_seq_length")
        check_counts(self.attack, "tokens_per_batch")

    @classmethod
    def kinds(cls, command: str) -> tuple[type, ...]:
        """`evaluate` has the flags of the embeddings beside those of `attack`."""
        common = (TextVictimArguments, TextAttackArguments)
        return (*common, EmbeddingArguments) if command == "evaluate" else common

    def check(self) -> None:
        """Protocol, texts and resources are there."""
        protocol, _, _ = self._settings()
        load_texts(self.victim)
        load_training_texts(self.victim)
        check_attacks(self.attack.attacks, protocol, load_resources(self.attack, self.victim))

    def _settings(self) -> tuple[Protocol, Shard | None, WhiteBox | None]:
        protocol = chosen_protocol(self.attack.protocol)
        shard = Shard.parse(self.attack.shard) if self.attack.shard else None
        return protocol, shard, None if self._embedding is None else self._embedding.white_box()

    def run(
        self,
        command: str,
        *,
        transfer: Sequence[Record] = (),
        logits_times: float = 1.0,
        **more: Any,
    ) -> Attacked:
        """Attack the texts.

        Args:
            command: as it was typed.
            transfer: records of attacks on another model, to try their texts on this one.
            logits_times: what the logits are multiplied by: a control that changes no answer.
            **more: nothing.
        """
        victim, attack = self.victim, self.attack
        protocol, shard, white_box = self._settings()
        dataset, name = load_texts(victim)
        resources = load_resources(attack, victim)
        trained_on = load_training_texts(victim)
        model, tokenizer = load_victim(victim)
        print(
            f"Attacking {victim.model_name_or_path} under the protocol {protocol.name}; records go "
            f"to {attack.output_dir}.",
            file=sys.stderr,
        )
        with scaled_logits(model, logits_times):
            found = evaluate_robustness(
                model,
                tokenizer,
                dataset,
                list(dict.fromkeys(attack.attacks)),
                protocol=protocol,
                resources=resources,
                white_box=white_box,
                transfer=transfer,
                trained_on=trained_on,
                clean_on_all=self._embedding is not None,
                seed=attack.seed,
                max_examples=attack.max_examples,
                max_length=victim.max_seq_length,
                text_columns=victim.text_columns,
                label_column=victim.label_column,
                target=class_number(attack.target, classes_of(model.config)),
                shard=shard,
                tokens_per_batch=attack.tokens_per_batch,
                output_dir=attack.output_dir,
                name=name,
            )
        found = replace(found, name=model_name(victim.model_name_or_path))
        page, summary = saved_report(found, attack.output_dir, command)
        return Attacked(found, summary, found.checks, found.notes, page)


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
