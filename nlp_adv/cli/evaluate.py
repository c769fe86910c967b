"""`nlp-adv evaluate`: attacks on words and on embeddings, and the checks that they could see."""

from __future__ import annotations

from collections.abc import Sequence

from nlp_adv.attacks.words.attacks.build import check_attacks
from nlp_adv.cli.attack import attacked
from nlp_adv.cli.attack_arguments import (
    AttackArguments,
    EmbeddingArguments,
    VictimArguments,
    chosen_protocol,
    parse,
)
from nlp_adv.cli.evaluations import finish
from nlp_adv.cli.flags import command_line
from nlp_adv.cli.victim import load_resources, load_texts, load_training_texts
from nlp_adv.folders import alone_in
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.record import Record
from nlp_adv.robustness.shards import Shard


def main(argv: list[str]) -> None:
    """Evaluate a saved classifier."""
    run(argv)


def check(argv: list[str]) -> None:
    """Make sure that a model yet to be trained can be evaluated so: flags, texts, resources.

    Raises:
        UserError: it cannot.
    """
    victim, attack, embedding = parse(
        argv, "evaluate", VictimArguments, AttackArguments, EmbeddingArguments
    )
    protocol = chosen_protocol(attack.protocol)
    if attack.shard:
        Shard.parse(attack.shard)
    embedding.white_box()
    load_texts(victim)
    load_training_texts(victim)
    check_attacks(attack.attacks, protocol, load_resources(attack, victim))


def run(
    argv: list[str], *, transfer: Sequence[Record] = (), logits_times: float = 1.0
) -> Evaluation:
    """The same, with what only a comparison of several models has.

    Args:
        argv: the command line after `evaluate`.
        transfer: records of attacks on another model, to try their texts on this one.
        logits_times: what the logits are multiplied by.
    """
    victim, attack, embedding = parse(
        argv, "evaluate", VictimArguments, AttackArguments, EmbeddingArguments
    )
    with alone_in(attack.output_dir):
        evaluation = attacked(
            victim, attack, embedding, transfer=transfer, logits_times=logits_times
        )
        finish(evaluation, attack.output_dir, command_line("evaluate", argv))
    return evaluation
