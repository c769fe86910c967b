"""`nlp-adv attack`: words and characters of labelled texts, records as it goes, a report.

With `--modality image` it is `attack_images`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module

from nlp_adv.cli.attack_arguments import (
    AttackArguments,
    EmbeddingArguments,
    VictimArguments,
    chosen_protocol,
    parse,
)
from nlp_adv.cli.attack_image_arguments import of_texts
from nlp_adv.cli.evaluations import finish, model_name
from nlp_adv.cli.flags import command_line
from nlp_adv.cli.modality import modality
from nlp_adv.cli.victim import load_resources, load_texts, load_training_texts, load_victim
from nlp_adv.folders import alone_in
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.evaluation import evaluate_robustness
from nlp_adv.robustness.record import Record
from nlp_adv.robustness.scaled_logits import scaled_logits
from nlp_adv.robustness.shards import Shard


def main(argv: list[str]) -> None:
    """Attack a saved classifier."""
    if modality(argv) == "image":
        import_module("nlp_adv.cli.attack_images").main(argv)
        return
    argv = of_texts(argv)
    victim, attack = parse(argv, "attack", VictimArguments, AttackArguments)
    with alone_in(attack.output_dir):
        evaluation = attacked(victim, attack)
        finish(evaluation, attack.output_dir, command_line("attack", argv))


def attacked(
    victim: VictimArguments,
    attack: AttackArguments,
    embedding: EmbeddingArguments | None = None,
    *,
    transfer: Sequence[Record] = (),
    logits_times: float = 1.0,
) -> Evaluation:
    """Load everything and run the attacks; records are in `attack.output_dir` at once.

    Args:
        victim, attack, embedding: the flags; without the last nothing is tried on the embeddings.
        transfer: records of attacks on another model, to try their texts on this one.
        logits_times: what the logits are multiplied by: a control that changes no answer.

    Raises:
        UserError: something cannot be had or does not fit.
    """
    protocol = chosen_protocol(attack.protocol)
    shard = Shard.parse(attack.shard) if attack.shard else None
    white_box = None if embedding is None else embedding.white_box()
    dataset, name = load_texts(victim)
    resources = load_resources(attack, victim)
    trained_on = load_training_texts(victim)
    model, tokenizer = load_victim(victim)
    print(
        f"Attacking {victim.model_name_or_path} under the protocol {protocol.name}; records go to "
        f"{attack.output_dir}.",
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
            clean_on_all=embedding is not None,
            seed=attack.seed,
            max_examples=attack.max_examples,
            max_length=victim.max_seq_length,
            text_columns=victim.text_columns,
            label_column=victim.label_column,
            target=attack.target,
            shard=shard,
            tokens_per_batch=attack.tokens_per_batch,
            output_dir=attack.output_dir,
            name=name,
        )
    return replace(found, name=model_name(victim.model_name_or_path))
