"""`nlp-adv attack --modality image`: attacks on images, records as it goes, a report."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from nlp_adv import __version__
from nlp_adv.attacks import Attack
from nlp_adv.cli.attack_image_arguments import ImageAttackArguments, ImageVictimArguments, parse
from nlp_adv.cli.flags import command_line
from nlp_adv.cli.image_attacks import built_attacks
from nlp_adv.cli.image_run import ImageRun
from nlp_adv.cli.image_victim import load_attacked_images, load_on_device
from nlp_adv.cli.tables import table
from nlp_adv.folders import alone_in
from nlp_adv.report.cells import MISSING
from nlp_adv.report.images import ImageReport, write_image_report
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.evaluation import environment


def main(argv: list[str]) -> None:
    """Attack a saved classifier of images.

    Raises:
        UserError: anything that the user can mend; what is finished is kept.
    """
    victim, arguments = parse(argv)
    with alone_in(arguments.output_dir):
        _run(victim, arguments, command_line("attack", argv))


def _run(victim: ImageVictimArguments, arguments: ImageAttackArguments, command: str) -> None:
    attacks = built_attacks(arguments)
    classifier = load_on_device(victim)
    images = load_attacked_images(victim, arguments, classifier)
    print(
        f"Attacking {victim.model_name_or_path} on {images.description}; records go to "
        f"{arguments.output_dir}.",
        file=sys.stderr,
    )
    run = ImageRun(arguments, attacks, classifier.model, images)
    found = run.found()
    report = ImageReport(
        title="Image attacks",
        model=images.model_name,
        data=images.description,
        found=found,
        sweeps=run.sweeps(found),
        checks=run.checks(found),
        norm=arguments.norm,
        exhibits=run.exhibits(found),
        target=images.target,
        labels=classifier.label_names,
        settings=_settings(victim, arguments, attacks),
        environment=environment(classifier.model) | {"nlp_adv": __version__},
        commands=[command],
        notes=run.notes,
    )
    written = write_image_report(report, arguments.output_dir)
    print(_summary(found))
    for check in report.checks:
        if check.passed is False:
            print(f"Check failed: {check.name}: {check.finding} {check.meaning}")
    for note in report.notes:
        print(f"Note: {note}")
    print(f"The report is {written[0]}.")


def _settings(
    victim: ImageVictimArguments, arguments: ImageAttackArguments, attacks: Mapping[str, Attack]
) -> dict[str, Any]:
    return {
        "model": victim.model_name_or_path,
        "norm": arguments.norm,
        "ε": f"{arguments.radius:.6g} ({255 * arguments.radius:.4g}/255)",
        **{name: str(attack) for name, attack in attacks.items()},
        "starts": arguments.restarts,
        "seed": arguments.seed,
        "target": arguments.target,
        "images a batch": arguments.batch_size,
        "images of the checks": arguments.check_examples if arguments.checks else None,
    }


def _summary(found: Evaluation) -> str:
    """The same numbers for the terminal."""
    head = ["attack", "accuracy %", "fooled %", "8 bits %", "L2", "Linf", "gradients"]
    rows = [head, ["without", _percent(found.clean), *[""] * 5]]
    mark = " †" if found.answers.constant else ""
    for name, one in found.summaries.items():
        shares = [f"{100 * share.value:.1f}" for share in (one.fooled, one.fooled_8_bit)]
        norms = [MISSING if math.isnan(n) else f"{n:.4g}" for n in (one.l2, one.linf)]
        cost = f"{one.gradient_passes:.1f}"
        rows.append([name, _percent(one.under_attack) + mark, *shares, *norms, cost])
    rows.append(["worst case", _percent(found.worst_case) + mark, *[""] * 5])
    largest = found.answers.largest
    said = f"The most frequent answer is given to {largest.count} of {largest.total} images"
    if mark:
        said = (
            f"Warning: † {said}: the accuracy under attack is the share of one class and no "
            f"robustness"
        )
    return f"{table(rows)}\n{said}."


def _percent(share: Any) -> str:
    low, high = share.interval()
    return f"{100 * share.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
