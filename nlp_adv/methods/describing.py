"""A method as flat settings, which files hold and `build` takes."""

import math
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from nlp_adv.methods.around import bare, found_around
from nlp_adv.methods.inner_passes import InnerPasses
from nlp_adv.methods.method import Method
from nlp_adv.methods.scaled import Scaled, unit_of
from nlp_adv.methods.some_rows import SomeRows
from nlp_adv.perturbation import BALLS, Ball


def describe(method: Method) -> dict[str, Any]:
    """The method and its numbers, flat, as `build` takes them; JSON can hold it."""
    inner, scaled, some = bare(method), found_around(method, Scaled), found_around(method, SomeRows)
    inner_passes = found_around(method, InnerPasses)
    flat: dict[str, Any] = {"method": inner.name}
    if hasattr(inner, "ball"):
        flat |= {"norm": norm_name(inner.ball), "unit": unit_of(method)}
    if scaled is not None and scaled.factor != 1:
        flat["factor"] = scaled.factor
    if some is not None:
        flat["share"] = some.share
    if inner_passes is not None:
        precise, dropout = inner_passes.precision is None, inner_passes.dropout
        flat |= {} if precise else {"inner_precision": inner_passes.precision}
        flat |= {} if dropout else {"inner_dropout": dropout}
        flat |= {} if inner_passes.prefix is None else {"inner_prefix": inner_passes.prefix}
    for key, value in _settings(inner).items():
        flat |= _settings(value) if key == "ball" else {key: value}
    return {key: _plain(value) for key, value in flat.items()}


def _plain(value: Any) -> Any:
    """What strict JSON can hold: it has no infinity."""
    if isinstance(value, Tensor):
        return value.tolist()
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _settings(thing: Any) -> dict[str, Any]:
    names = [field.name for field in fields(thing)] if is_dataclass(thing) else list(vars(thing))
    return {name: getattr(thing, name) for name in names}


def norm_name(ball: Ball) -> str:
    """The ball's name among `BALLS`; its class's where it is another one."""
    return next((name for name, kind in BALLS.items() if type(ball) is kind), type(ball).__name__)
