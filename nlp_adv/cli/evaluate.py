"""`nlp-adv evaluate`: all that `attack` does, and the checks that an attack could see.

On texts that is the attack on embeddings and the masking checks; on images `attack` has both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nlp_adv.cli import attack
from nlp_adv.robustness.processes import launched

if TYPE_CHECKING:
    from nlp_adv.robustness.evaluated import Evaluation
    from nlp_adv.robustness.record import Record


def main(argv: list[str]) -> None:
    """Evaluate a saved classifier."""
    attack.run("evaluate", argv, launched())


def check(argv: list[str]) -> None:
    """Make sure that a model yet to be trained can be evaluated so: flags, data, resources.

    Raises:
        UserError: it cannot.
    """
    attack.read("evaluate", argv).check()


def run(
    argv: list[str], *, transfer: Sequence[Record] = (), logits_times: float = 1.0
) -> Evaluation:
    """Evaluate a classifier of texts, with what only a comparison of several models has.

    Args:
        argv: the command line after `evaluate`.
        transfer: records of attacks on another model, to try their texts on this one.
        logits_times: what the logits are multiplied by.
    """
    found: Evaluation = attack.run("evaluate", argv, transfer=transfer, logits_times=logits_times)
    return found
