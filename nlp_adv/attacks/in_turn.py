"""Several attacks as one: each is run on the examples that those before it did not fool."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.losses import margin
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import NoGradientError, Rows
from nlp_adv.attacks.trace import Trace
from nlp_adv.sites.taps import NoGraphError


def in_turn(
    name: str,
    rows: Rows,
    attacks: Callable[[Rows], Iterable[Attack]],
    *,
    blind: bool = False,
) -> AttackResult:
    """Run attacks one after the other, each on what still stands.

    An example that is wrong already stays as it is. One that nothing fools ends at the point, of
    those where an attack ended, at which the model is least sure of the right class (or surest of
    the target). The loss written down is the margin.

    Args:
        name: of the whole.
        rows: the examples.
        attacks: in their order, of the examples with their logits at x; they are asked for one by
            one, and not after the last example is fooled.
        blind: go on, with a warning, where an attack finds no gradient at all.

    Raises:
        NoGradientError: an attack found no gradient, unless `blind`.

    Cost: that of the attacks, and three forward passes, two where nothing is rounded to pictures.
    """
    trace = Trace(rows, margin)
    trace.begin()
    looked = replace(rows, looked=trace.clean_logits())
    assert looked.looked is not None
    fooled = rows.fooled(looked.looked)
    point = rows.clean.clone()
    worst = _confidence(looked, looked.looked)
    for attack in attacks(looked):
        places = (~fooled).nonzero().squeeze(1)
        if not len(places):
            break
        some = looked.rows(places)
        try:
            result = attack.run(some)
        except (NoGradientError, NoGraphError) as error:
            if not blind:
                raise
            trace.looked(places)  # the pass that had no gradient
            warnings.warn(f"{name} goes on without {attack.name}: {error}", stacklevel=2)
            continue
        trace.ran(result, places)
        sure = result.label_confidences if rows.towards else -result.label_confidences
        better = result.success | (sure >= worst[places])
        point[places[better]] = _point(result, some)[better]
        worst[places] = torch.maximum(worst[places], sure)
        fooled[places] = result.success
    return trace.result(name, point)


def _confidence(rows: Rows, logits: Tensor) -> Tensor:
    """(b,): the probability of the target, or less that of the right class; larger is worse."""
    sure = logits.softmax(1).gather(1, rows.y[:, None]).squeeze(1)
    return sure if rows.towards else -sure


def _point(result: AttackResult, rows: Rows) -> Tensor:
    """Where the attack ended, as it moves points."""
    return result.adv if rows.view.pictures else result.delta
