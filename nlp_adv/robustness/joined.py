"""Shards of one evaluation as the whole: every number is that of all texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nlp_adv.errors import UserError
from nlp_adv.robustness.answers import NAME as ANSWERS
from nlp_adv.robustness.answers import Answers, check_answers
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks_records import record_checks
from nlp_adv.robustness.curve import Curve
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.record import Record
from nlp_adv.robustness.saved import identity
from nlp_adv.robustness.shards import Shard
from nlp_adv.robustness.statistics import Share


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """Put the shards of one run together.

    Records and notes are those of all, costs and the counts of curves are added up. Checks of
    records are made again on all of them; of the others, which took runs of their own, the worst
    verdict counts and every finding is kept.

    Raises:
        UserError: they are of different runs, one is missing or there twice, or they hold
            different records of one example.
    """
    shards = _all_there(parts)
    first = parts[0]
    for part in parts:
        mine, theirs = identity(first), identity(part)
        other = next((what for what in mine if mine[what] != theirs[what]), None)
        if other is not None:
            raise UserError(
                f"The shards are not of one run: {shards[parts.index(part)]} has another {other} "
                f"({theirs[other]}, not {mine[other]})."
            )
    records = _records(parts)
    remade = [check_answers(Answers.of_records(records)), *record_checks(records)]
    kinds = list(dict.fromkeys(kind for part in parts for kind in part.cost))
    return replace(
        first,
        records=records,
        checks=_checks(parts, shards, remade),
        curves=[_curve(parts, place) for place in range(len(first.curves))],
        cost={kind: sum(part.cost.get(kind, 0.0) for part in parts) for kind in kinds},
        notes=list(dict.fromkeys(note for part in parts for note in part.notes)),
        shard=None,
    )


def _all_there(parts: Sequence[Evaluation]) -> list[Shard]:
    shards = []
    for part in parts:
        if part.shard is None or part.texts is None:
            raise UserError(
                "One of the folders is no shard, or an earlier version wrote it: run its command "
                "with --shard again (finished examples are kept), or leave out --shards."
            )
        shards.append(Shard.parse(part.shard))
    number = shards[0].of
    for shard in shards:
        if shard.of != number:
            raise UserError(f"There are shards of {number} and of {shard.of}; give those of one.")
        if shards.count(shard) > 1:
            raise UserError(f"Shard {shard.index}/{number} is given twice; name each folder once.")
    missing = sorted(set(range(1, number + 1)) - {shard.index for shard in shards})
    if missing:
        which = ", ".join(f"{index}/{number}" for index in missing)
        raise UserError(f"Shard {which} is missing: its texts would be, too. Name its folder.")
    return shards


def _records(parts: Sequence[Evaluation]) -> list[Record]:
    records: dict[tuple[str, float | None, int], Record] = {}
    for part in parts:
        for record in part.records:
            other = records.setdefault(record.key, record)
            if other != record:
                raise UserError(f"Two shards disagree on example {record.id} ({record.title}).")
    order = {attack: place for place, attack in enumerate(parts[0].hashes)}
    found = sorted(records.values(), key=lambda r: (order[r.attack], r.epsilon or 0.0, r.id))
    # Attacks on embeddings take the first texts alone.
    whole = [record.attack for record in found if record.changes_text or record.text is None]
    for attack in dict.fromkeys(whole):
        count = sum(record.attack == attack for record in found)
        if count != parts[0].texts:
            raise UserError(
                f"The shards hold {count} of {parts[0].texts} examples under {attack}; finish "
                f"their runs."
            )
    return found


def _curve(parts: Sequence[Evaluation], place: int) -> Curve:
    """A curve's counts over all shards; one of few examples may have none of them."""
    curves = [part.curves[place] for part in parts if len(part.curves) > place]
    points = {
        epsilon: Share(
            sum(curve.points[epsilon].count for curve in curves),
            sum(curve.points[epsilon].total for curve in curves),
        )
        for epsilon in curves[0].points
    }
    return replace(curves[0], points=points)


def _checks(
    parts: Sequence[Evaluation], shards: Sequence[Shard], remade: Sequence[Check]
) -> list[Check]:
    again = {ANSWERS, *(check.name for check in remade)}
    found = list(remade)
    for name in dict.fromkeys(check.name for part in parts for check in part.checks):
        if name in again:
            continue
        each = [
            (shard, check)
            for shard, part in zip(shards, parts, strict=True)
            for check in part.checks
            if check.name == name
        ]
        verdicts = {check.passed for _, check in each}
        worst = False if False in verdicts else None if None in verdicts else True
        told = " ".join(f"Shard {shard.index}: {check.finding}" for shard, check in each)
        found.append(replace(each[0][1], passed=worst, finding=told))
    return found
