"""Attacks on texts: their flags, what they need, and the run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from nlp_adv.attacks.words.attacks.build import ATTACKS, Resources, check_attacks
from nlp_adv.attacks.words.protocols import Protocol
from nlp_adv.attacks.words.victim import bf16_slowdown
from nlp_adv.cli.arguments import check_counts
from nlp_adv.cli.attack import Attacked, AttackTask
from nlp_adv.cli.attack_arguments import class_number
from nlp_adv.cli.evaluations import hub_name, model_name, saved_report, training_of
from nlp_adv.cli.text_attack_arguments import (
    POINTS,
    EmbeddingArguments,
    TextAttackArguments,
    TextFlags,
    TextVictimArguments,
)
from nlp_adv.cli.victim import (
    load_resources,
    load_texts,
    load_training_texts,
    load_victim,
)
from nlp_adv.cli.word_arguments import chosen_protocol
from nlp_adv.data.class_names import classes_of
from nlp_adv.errors import UserError, no_such
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.point_protocols import point_protocol
from nlp_adv.robustness.processes import Processes
from nlp_adv.robustness.record import Record
from nlp_adv.robustness.scaled_logits import scaled_logits
from nlp_adv.robustness.shards import Shard
from nlp_adv.robustness.text_evaluation import evaluate_robustness
from nlp_adv.robustness.white_box import WhiteBox
from nlp_adv.sites.any_model import a_tensor_of


class TextAttack(TextFlags, AttackTask):
    """Words and characters; with `evaluate` the word embeddings and the checks as well."""

    victim: TextVictimArguments
    attack: TextAttackArguments

    def __init__(self, command: str, parsed: Sequence[Any]) -> None:
        super().__init__(command, parsed)
        victim = self.victim
        self._embedding: EmbeddingArguments | None = None
        if isinstance(parsed[-1], EmbeddingArguments):
            self._embedding = parsed[-1]
        names = list(dict.fromkeys(self.attack.attacks))
        self._points = [one for one in names if self._embedding and one in POINTS]
        self._words = [one for one in names if one not in self._points]
        if command == "attack" and not self._points and self._embedding != EmbeddingArguments():
            raise UserError(
                "No attack on the embeddings is named: add one to --attacks, such as pgd or auto, "
                "leave out the flags of such attacks, or use nlp-adv evaluate, which has them all."
            )
        self._asks_embeddings = command == "evaluate" or bool(self._points)
        if not victim.model_name_or_path:
            return  # the first thing to be said
        if sum(map(bool, (victim.test_file, victim.dataset_name, victim.task_name))) != 1:
            raise UserError("Name the texts: one of --test_file, --dataset_name and --task_name.")
        check_counts(victim, "max_seq_length")
        check_counts(self.attack, "tokens_per_batch")
        if self._embedding and (unknown := [one for one in self._words if one not in ATTACKS]):
            raise no_such("attack", unknown[0], (*ATTACKS, *POINTS))

    def check(self) -> None:
        """Protocol, texts and resources are there."""
        protocol, _, _ = self._settings()
        load_texts(self.victim)
        load_training_texts(self.victim)
        check_attacks(self._words, protocol, self._resources())

    def _resources(self) -> Resources:
        attack, victim = self.attack, self.victim
        return load_resources(attack, self._words, victim, victim.max_seq_length)

    def _settings(self) -> tuple[Protocol, Shard | None, WhiteBox | None]:
        protocol = chosen_protocol(self.attack)
        shard = Shard.parse(self.attack.shard) if self.attack.shard else None
        embedding = self._embedding if self._asks_embeddings else None
        return protocol, shard, None if embedding is None else embedding.white_box(self._points)

    def run(
        self,
        processes: Processes,
        *,
        transfer: Sequence[Record] = (),
        logits_times: float = 1.0,
        **more: Any,
    ) -> Evaluation:
        """Attack the texts.

        Args:
            processes: that share them.
            transfer: records of attacks on another model, to try their texts on this one.
            logits_times: what the logits are multiplied by: a control that changes no answer.
            **more: nothing.
        """
        victim, attack = self.victim, self.attack
        protocol, shard, white_box = self._settings()
        dataset, name = load_texts(victim)
        resources = self._resources()
        trained_on = load_training_texts(victim)
        model, tokenizer = load_victim(victim)
        if victim.inference_precision == "bf16":
            _check_bf16(model)
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
                self._words,
                protocol=protocol,
                resources=resources,
                white_box=white_box,
                transfer=transfer,
                trained_on=trained_on,
                clean_on_all=self._asks_embeddings,
                seed=attack.seed,
                max_examples=attack.max_examples,
                max_length=victim.max_seq_length,
                text_columns=victim.text_columns,
                label_column=victim.label_column,
                target=class_number(attack.target, classes_of(model.config)),
                shard=shard,
                tokens_per_batch=attack.tokens_per_batch,
                bf16=victim.inference_precision == "bf16",
                output_dir=attack.output_dir,
                name=name,
                processes=processes,
            )
        named = victim.model_name_or_path
        notes = [*found.notes, *self._protocol_of_embeddings()]
        return replace(found, name=model_name(named), notes=notes, training=training_of(named))

    def report(self, command: str, done: Evaluation) -> Attacked:
        """Save the evaluation, and write its page."""
        hub = self.victim.hub_dataset_id or hub_name(self.victim.dataset_name)
        page, summary = saved_report(done, self.attack.output_dir, command, dataset_id=hub)
        return Attacked(done, summary, done.checks, done.notes, page)

    def _protocol_of_embeddings(self) -> list[str]:
        embedding = self._embedding
        if not self._asks_embeddings or embedding is None or embedding.embedding_protocol is None:
            return []
        fixed = point_protocol(embedding.embedding_protocol)
        names = ", ".join(fixed.attacks)
        return [f"{names} on the embeddings is under the protocol {fixed}: {fixed.source}."]


def _check_bf16(model: nn.Module) -> None:
    """Whether bfloat16 gains anything.

    Raises:
        UserError: it costs.
    """
    device = a_tensor_of(model).device
    slower = bf16_slowdown(device)
    if slower > 1.0:
        raise UserError(
            f"--inference_precision bf16: a product of matrices takes {slower:.1f} times as long "
            f"in bfloat16 as in float32 on this {device.type}; leave it out here."
        )
