"""Methods by name, and how a method is built from flat settings and written down again."""

import math
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar, cast, get_type_hints

from torch import Tensor

from nlp_adv.methods.around import bare, found_around
from nlp_adv.methods.awp import AWP
from nlp_adv.methods.fgm import FGM
from nlp_adv.methods.fgm_matrix import FGMMatrix
from nlp_adv.methods.fgsm import FGSM
from nlp_adv.methods.freeat import FreeAT
from nlp_adv.methods.freelb import FreeLB
from nlp_adv.methods.inner_passes import InnerPasses
from nlp_adv.methods.method import Method
from nlp_adv.methods.noise import Noise
from nlp_adv.methods.none import NoAttack
from nlp_adv.methods.pgd import PGD
from nlp_adv.methods.rdrop import RDrop
from nlp_adv.methods.scaled import Scaled, unit_of
from nlp_adv.methods.smart import SMART
from nlp_adv.methods.some_rows import SomeRows, check_share
from nlp_adv.methods.tavat import TAVAT
from nlp_adv.methods.trades import TRADES
from nlp_adv.methods.vat import VAT
from nlp_adv.methods.yopo import YOPO
from nlp_adv.perturbation import BALLS, Ball, LInfBall, Per, Unit

METHODS: dict[str, Any] = {
    method.name: method
    for method in (
        NoAttack,
        Noise,
        RDrop,
        FGSM,
        FGM,
        FGMMatrix,
        PGD,
        FreeAT,
        YOPO,
        FreeLB,
        TAVAT,
        VAT,
        SMART,
        TRADES,
        AWP,
    )
}
"""The methods of this package; `all_methods()` holds those of others as well."""

ENTRY_POINTS = "nlp_adv.methods"  # the group under which other packages name their methods

_LENGTHS = ("step_size", "init_magnitude", "xi")  # in the unit of ε; unset, they keep their share
_MOVES = ("step_size", "steps")  # at 0, no gradient moves δ
_others: dict[str, Any] = {}
_entry_points_read = False

Modality = Literal["text", "image"]
_IMAGE_EPSILON = 8 / 255  # the usual ε on pixels since Madry et al. (2018)

MethodClass = TypeVar("MethodClass", bound=type)


def register(method: MethodClass) -> MethodClass:
    """Add a method: `--adv NAME`, its own fields as flags `--adv_FIELD`. A decorator.

    A method is a frozen dataclass with a `name`, `passes`, `inner_passes`, `step(objective)` and a
    class method `preset()`, which returns it at its default setting, in `Scaled` where its lengths
    have a unit. On images the preset's lengths are scaled to an L∞ ball of 8/255; a class method
    `image_preset()` says otherwise, and `text_only = True` that there is none. A field `ball` is
    set by `--adv_epsilon`, `--adv_norm`, `--adv_per` and `--adv_unit`; step_size, init_magnitude
    and xi are lengths, which follow ε; a field `replays` makes the Trainer give each batch so many
    times in a row. The flags refuse an ε, step_size or steps of 0, and what a property `idle` gives
    a reason for: settings under which the method is ordinary training.

    Register before `AdversarialTrainingArguments` is imported, or as an entry point of the group
    "nlp_adv.methods", so that the flags can be made.

    Raises:
        ValueError: the name is taken, or the class is not a method.
    """
    name = getattr(method, "name", None)
    missing = [
        what for what in ("step", "preset", "passes", "inner_passes") if not hasattr(method, what)
    ]
    if not isinstance(name, str) or missing or not is_dataclass(method):
        lacks = ", ".join(missing) or ("a name" if is_dataclass(method) else "@dataclass")
        raise ValueError(f"{method.__name__} is not a training method: it lacks {lacks}.")
    if (METHODS | _others).get(name, method) is not method:
        raise ValueError(f"There is a method {name!r} already; give yours another name.")
    _others[name] = method
    return method


def all_methods() -> dict[str, Any]:
    """Every method by name: this package's, registered ones, and those of installed packages."""
    global _entry_points_read
    if not _entry_points_read:
        _entry_points_read = True  # before loading: what is loaded may ask for the methods
        try:
            for point in entry_points(group=ENTRY_POINTS):
                register(_loaded(point))
        except ValueError:
            _entry_points_read = False
            raise
    return METHODS | _others


def _loaded(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        raise ValueError(
            f"The method {point.name!r} of an installed package ({point.value}) cannot be loaded "
            f"({error}); mend or uninstall that package."
        ) from error


def own_settings(method: Any) -> dict[str, Any]:
    """The method's own fields and their types, for flags; the ball has its flags elsewhere."""
    hints = get_type_hints(method)
    return {f.name: hints[f.name] for f in fields(method) if f.name not in ("ball", "epsilon")}


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


def describe(method: Method) -> dict[str, Any]:
    """The method and its numbers, flat, as `build` takes them; JSON can hold it."""
    inner, scaled, some = bare(method), found_around(method, Scaled), found_around(method, SomeRows)
    inner_passes = found_around(method, InnerPasses)
    flat: dict[str, Any] = {"method": inner.name}
    if hasattr(inner, "ball"):
        flat |= {"norm": _norm_name(inner.ball), "unit": unit_of(method)}
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
    if unknown and isinstance(method, NoAttack):
        raise ValueError(f"{', '.join(unknown)} needs a method: name one with --adv.")
    if unknown:
        shown = ", ".join("epsilon, norm, per, unit" if key == "ball" else key for key in known)
        raise ValueError(
            f"{method.name} has no {', '.join(unknown)}; its settings are: {shown or 'none'}."
        )
