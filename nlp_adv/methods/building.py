"""A method from flat settings, as flags and files have them."""

import math
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any, Literal, cast

from torch import Tensor

from nlp_adv.methods.around import bare
from nlp_adv.methods.describing import norm_name
from nlp_adv.methods.inner_passes import InnerPasses
from nlp_adv.methods.method import Method
from nlp_adv.methods.none import NoAttack
from nlp_adv.methods.registry import all_methods
from nlp_adv.methods.scaled import Scaled, unit_of
from nlp_adv.methods.some_rows import SomeRows, check_share
from nlp_adv.perturbation import BALLS, Ball, LInfBall, Per, Unit

Modality = Literal["text", "image"]
_IMAGE_EPSILON = 8 / 255  # the usual ε on pixels since Madry et al. (2018)
_LENGTHS = ("step_size", "init_magnitude", "xi")  # in the unit of ε; unset, they keep their share
_MOVES = ("step_size", "steps")  # at 0, no gradient moves δ


def build(
    name: str,
    *,
    epsilon: float | None = None,
    norm: str | None = None,
    per: str | None = None,
    unit: Unit | None = None,
    share: float | None = None,
    inner_precision: Literal["bf16"] | None = None,
    inner_dropout: bool | None = None,
    inner_prefix: Literal["once"] | None = None,
    modality: Modality = "text",
    **settings: Any,
) -> Method:
    """The method `name` at its preset, with what is given put in.

    Args:
        name: a key of `all_methods()`.
        epsilon: radius of the ball; inf is none. Lengths that are not given (`step_size`,
            `init_magnitude`, `xi`) keep the preset's ratio to it, or at inf the preset's value.
        norm: "l2", "linf" or "l1".
        per: "example" or "token".
        unit: of ε and of the other lengths; only together with `epsilon`.
        share: of the rows that are attacked, for methods that `SomeRows` takes; clean_weight is
            1 − share where it is not given.
        inner_precision, inner_dropout, inner_prefix: of passes for δ alone, see `InnerPasses`.
        modality: whose preset: "image" has ε = 8/255 in L∞, on pixels.
        settings: the method's own fields; None leaves the preset's value.

    Raises:
        ValueError: an unknown name, a field that the method does not have, a value out of range.
    """
    known = all_methods()
    if name not in known:
        close = get_close_matches(name.lower(), known, n=1)
        meant = f", did you mean {close[0]}" if close else ""
        raise ValueError(f"Unknown method {name!r}{meant}; choose from {', '.join(known)}.")
    preset = _image_preset(known[name]) if modality == "image" else known[name].preset()
    own_unit = unit_of(preset)
    method = bare(preset)
    given = {key: value for key, value in settings.items() if value is not None}
    about_ball = {"epsilon": epsilon, "norm": norm, "per": per, "unit": unit}
    if not hasattr(method, "ball"):
        about_ball |= {"share": share, "inner_precision": inner_precision}
        about_ball |= {"inner_dropout": None if inner_dropout is not False else False}
        about_ball |= {"inner_prefix": inner_prefix}
        given |= {key: value for key, value in about_ball.items() if value is not None}
        _refuse_unknown(method, given)
        return cast(Method, replace(method, **given))
    epsilon = (
        None if epsilon is None else float(epsilon)
    )  # `describe` writes an infinite one as text
    if epsilon is None and unit not in (None, own_unit):
        raise ValueError(f"unit={unit!r} needs an epsilon: the preset's is {own_unit}.")
    if share is not None and getattr(method, "mixes_rows", False):
        check_share(share)
        given = {"clean_weight": 1 - share} | given
    _refuse_unknown(method, given)
    if epsilon is not None:
        given = _kept_shares(method, epsilon) | given
    method = replace(method, ball=_ball(method.ball, epsilon, norm, per), **given)
    method = method if share is None else SomeRows(method, share)
    if inner_precision is not None or inner_dropout is False or inner_prefix is not None:
        method = InnerPasses(method, inner_precision, inner_dropout is not False, inner_prefix)
    unit = unit or own_unit
    return cast(Method, method) if unit == "absolute" else Scaled(method, unit=unit)


def _image_preset(method: Any) -> Any:
    """The method as its image experiments have it; in their ball where it had none.

    Raises:
        ValueError: the method is for text.
    """
    if hasattr(method, "image_preset"):
        return method.image_preset()
    preset = bare(method.preset())
    if getattr(method, "text_only", False):
        raise ValueError(f"{method.name} perturbs words, and images have none.")
    if not hasattr(preset, "ball"):
        return preset
    lengths = _kept_shares(preset, _IMAGE_EPSILON)
    return replace(preset, ball=LInfBall(_IMAGE_EPSILON), **lengths)


def _kept_shares(method: Any, epsilon: float) -> dict[str, float]:
    """The method's lengths, scaled as its ε is scaled."""
    if math.isinf(epsilon) or method.ball.epsilon in (0, math.inf):
        return {}
    ratio = epsilon / method.ball.epsilon
    return {key: getattr(method, key) * ratio for key in _LENGTHS if hasattr(method, key)}


def check_attacks(method: Method) -> None:
    """Refuse settings that leave ordinary training under the method's name.

    Python allows them: at ε = 0 a method must be ordinary training, which is how it is tested.

    Raises:
        ValueError: a radius, a step or a number of steps of 0, or what the method itself declares
            as `idle`.
    """
    inner = bare(method)
    radius = getattr(getattr(inner, "ball", inner), "epsilon", None)
    lengths = {"epsilon": radius} | {key: getattr(inner, key, None) for key in _MOVES}
    for key, value in lengths.items():
        if not isinstance(value, Tensor) and value == 0:
            raise ValueError(
                f"{key} is 0, so that no gradient would move δ; give one > 0, or use none for "
                f"ordinary training and noise for random perturbations."
            )
    why = getattr(inner, "idle", None)
    if why is not None:
        raise ValueError(why)


def _ball(ball: Ball, epsilon: float | None, norm: str | None, per: str | None) -> Ball:
    if norm is not None and norm not in BALLS:
        raise ValueError(f"Unknown norm {norm!r}; choose from {', '.join(BALLS)}.")
    kind = BALLS[norm or norm_name(ball)]
    return kind(ball.epsilon if epsilon is None else epsilon, cast(Per, per or ball.per))


def _refuse_unknown(method: Any, given: dict[str, Any]) -> None:
    known = [field.name for field in fields(method)]
    unknown = sorted(set(given) - set(known) | set(given) & {"ball"})
    if unknown and isinstance(method, NoAttack):
        raise ValueError(f"{', '.join(unknown)} needs a method: name one with --adv.")
    if unknown:
        shown = ", ".join("epsilon, norm, per, unit" if key == "ball" else key for key in known)
        raise ValueError(
            f"{method.name} has no {', '.join(unknown)}; its settings are: {shown or 'none'}."
        )
