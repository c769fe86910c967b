"""Methods by name, those of other packages included."""

from dataclasses import fields, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar, get_type_hints

from nlp_adv.methods.awp import AWP
from nlp_adv.methods.capo import CAPO
from nlp_adv.methods.cat import CAT
from nlp_adv.methods.fgm import FGM
from nlp_adv.methods.fgm_matrix import FGMMatrix
from nlp_adv.methods.fgm_remembered import FGMRemembered
from nlp_adv.methods.fgsm import FGSM
from nlp_adv.methods.freeat import FreeAT
from nlp_adv.methods.freelb import FreeLB
from nlp_adv.methods.lat import LAT
from nlp_adv.methods.noise import Noise
from nlp_adv.methods.none import NoAttack
from nlp_adv.methods.pgd import PGD
from nlp_adv.methods.rdrop import RDrop
from nlp_adv.methods.rr import RR
from nlp_adv.methods.sam import SAM
from nlp_adv.methods.smart import SMART
from nlp_adv.methods.tavat import TAVAT
from nlp_adv.methods.trades import TRADES
from nlp_adv.methods.vat import VAT
from nlp_adv.methods.yopo import YOPO

METHODS: dict[str, Any] = {
    method.name: method
    for method in (
        NoAttack,
        Noise,
        RDrop,
        FGSM,
        FGM,
        FGMMatrix,
        FGMRemembered,
        PGD,
        FreeAT,
        YOPO,
        FreeLB,
        TAVAT,
        VAT,
        SMART,
        TRADES,
        AWP,
        SAM,
        CAT,
        CAPO,
        LAT,
        RR,
    )
}
"""The methods of this package; `all_methods()` holds those of others as well."""

ENTRY_POINTS = "nlp_adv.methods"  # the group under which other packages name their methods

_others: dict[str, Any] = {}
_entry_points_read = False

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
