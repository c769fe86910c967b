"""Trainers of a script that does not know this package, made adversarial as they are built."""

import functools
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from nlp_adv.errors import UserError
from nlp_adv.methods import Schedule
from nlp_adv.run.arguments import RunArguments
from nlp_adv.run.notes import Orders
from nlp_adv.training.inputs import scale_of
from nlp_adv.training.records import in_words
from nlp_adv.training.trainer import AdversarialMixin


class Launched(AdversarialMixin):
    """What goes before the class of a script's Trainer.

    The flags of the run stand on the Trainer's own arguments, so that a hyperparameter search finds
    them, whose class stays the script's.
    """

    _orders: Orders
    _announced = False

    def _build_schedule(self) -> Schedule:
        flags = RunArguments()
        for one in fields(flags):
            setattr(flags, one.name, getattr(self.args, one.name))
        return flags.adversarial_schedule(scale_of(self.model, self.args))

    def _begin(self) -> None:
        super()._begin()
        if self._announced:  # outside `train()` it is asked for every step
            return
        self._announced = True
        self._orders.note("began", self)
        if self.is_world_process_zero():
            said = in_words(self._schedule.method)
            print(f"nlp-adv run: {type(self).__name__} trains with {said}.", file=sys.stderr)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The mixin's; the run fails even if the script catches what this raises."""
        try:
            return super().train(*args, **kwargs)
        except UserError as error:
            self._orders.note("failed", self, str(error))
            raise


@functools.cache
def adversarial(cls: type) -> type:
    """The class as its author would have written it with the mixin in front, under its own name."""
    names = ("__module__", "__qualname__", "__doc__")
    own = {name: getattr(cls, name) for name in names}
    # The mixin's one public attribute with an everyday name: here the script's, if it has one.
    return type(cls.__name__, (Launched, cls), own | {"method": getattr(cls, "method", None)})


def build(trainer: Any, initialise: Callable[[], None], orders: Orders) -> None:
    """The stock `__init__` on a Trainer that changes its class first.

    Args:
        trainer: an instance on which `__init__` was called.
        initialise: the stock `__init__`.
        orders: the run's.

    Raises:
        UserError: the flags do not suit this model.
    """
    asked = orders.flags["adv_trainer"]
    if isinstance(trainer, AdversarialMixin):  # the script's author has done it
        initialise()
        orders.note("began", trainer)
        return
    if asked is not None and asked not in (base.__name__ for base in type(trainer).__mro__):
        initialise()
        orders.note("left", trainer)
        return
    kind: Any = type(trainer)  # lru_cache takes hashable arguments, and mypy no class for one
    trainer.__class__ = adversarial(kind)
    trainer._orders = orders
    initialise()
    orders.note("built", trainer)
    if getattr(trainer.args, "adv", "none") == "none":  # or another Trainer has the same arguments
        for name, value in orders.flags.items():
            setattr(trainer.args, name, value)
    trainer._set_up(None)
