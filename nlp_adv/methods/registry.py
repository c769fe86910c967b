"""Methods by name, and how a method is built from flat settings and written down again."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

from torch import Tensor

from nlp_adv.methods.fgm import FGM
from nlp_adv.methods.fgm_matrix import FGMMatrix
from nlp_adv.methods.fgsm import FGSM
from nlp_adv.methods.freelb import FreeLB
from nlp_adv.methods.method import Method
from nlp_adv.methods.noise import Noise
from nlp_adv.methods.none import NoAttack
from nlp_adv.methods.pgd import PGD
from nlp_adv.methods.scaled import Scaled
from nlp_adv.perturbation import BALLS, Ball, Per, Unit

METHODS: dict[str, Any] = {m.name: m for m in (NoAttack, Noise, FGSM, FGM, FGMMatrix, PGD, FreeLB)}

_LENGTHS = ("step_size", "init_magnitude")  # in the unit of ε; unset, they keep their share of it


def build(
    name: str,
    *,
    epsilon: float | None = None,
    norm: str | None = None,
    per: str | None = None,
    unit: Unit | None = None,
    **settings: Any,
) -> Method:
    """The method `name` at its preset, with what is given put in.

    Args:
        name: a key of `METHODS`.
        epsilon: radius of the ball. Lengths that are not given (`step_size`, `init_magnitude`)
            keep the preset's ratio to it.
        norm: "l2", "linf" or "l1".
        per: "example" or "token".
        unit: of ε and of the other lengths; only together with `epsilon`.
        settings: the method's own fields; None leaves the preset's value.

    Raises:
        ValueError: an unknown name, a field that the method does not have, a value out of range.
    """
    if name not in METHODS:
        raise ValueError(f"Unknown method {name!r}; choose from {', '.join(METHODS)}.")
    preset = METHODS[name].preset()
    own_unit = preset.unit if isinstance(preset, Scaled) else "absolute"
    method: Any = preset.method if isinstance(preset, Scaled) else preset
    given = {key: value for key, value in settings.items() if value is not None}
    about_ball = {"epsilon": epsilon, "norm": norm, "per": per, "unit": unit}
    if not hasattr(method, "ball"):
        given |= {key: value for key, value in about_ball.items() if value is not None}
        _refuse_unknown(method, given)
        return cast(Method, replace(method, **given))
    if epsilon is None and unit not in (None, own_unit):
        raise ValueError(f"unit={unit!r} needs an epsilon: the preset's is {own_unit}.")
    _refuse_unknown(method, given)
    if epsilon is not None:
        given = _kept_shares(method, epsilon) | given
    method = replace(method, ball=_ball(method.ball, epsilon, norm, per), **given)
    unit = unit or own_unit
    return cast(Method, method) if unit == "absolute" else Scaled(method, unit=unit)


def _kept_shares(method: Any, epsilon: float) -> dict[str, float]:
    """The method's lengths, scaled as its ε is scaled."""
    ratio = epsilon / method.ball.epsilon
    return {key: getattr(method, key) * ratio for key in _LENGTHS if hasattr(method, key)}


def describe(method: Method) -> dict[str, Any]:
    """The method and its numbers, flat, as `build` takes them; JSON can hold it."""
    unit = method.unit if isinstance(method, Scaled) else "absolute"
    inner = method.method if isinstance(method, Scaled) else method
    flat: dict[str, Any] = {"method": inner.name}
    if hasattr(inner, "ball"):
        flat |= {"norm": _norm_name(inner.ball), "unit": unit}
    if isinstance(method, Scaled) and method.factor != 1:
        flat["factor"] = method.factor
    for key, value in _settings(inner).items():
        flat |= _settings(value) if key == "ball" else {key: value}
    return {key: v.tolist() if isinstance(v, Tensor) else v for key, v in flat.items()}


def _settings(thing: Any) -> dict[str, Any]:
    names = [field.name for field in fields(thing)] if is_dataclass(thing) else list(vars(thing))
    return {name: getattr(thing, name) for name in names}


def _ball(ball: Ball, epsilon: float | None, norm: str | None, per: str | None) -> Ball:
    if norm is not None and norm not in BALLS:
        raise ValueError(f"Unknown norm {norm!r}; choose from {', '.join(BALLS)}.")
    kind = BALLS[norm or _norm_name(ball)]
    return kind(ball.epsilon if epsilon is None else epsilon, cast(Per, per or ball.per))


def _norm_name(ball: Ball) -> str:
    return next((name for name, kind in BALLS.items() if type(ball) is kind), type(ball).__name__)


def _refuse_unknown(method: Any, given: dict[str, Any]) -> None:
    known = [field.name for field in fields(method)]
    unknown = sorted(set(given) - set(known) | set(given) & {"ball"})
    if unknown:
        shown = ", ".join("epsilon, norm, per, unit" if key == "ball" else key for key in known)
        raise ValueError(
            f"{method.name} has no {', '.join(unknown)}; its settings are: {shown or 'none'}."
        )
