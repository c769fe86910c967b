"""Modules by their names."""

from difflib import get_close_matches

from torch import nn

from nlp_adv.errors import UserError
from nlp_adv.perturbation import unwrapped


def module_named(model: nn.Module, name: str, way_out: str | None = None) -> nn.Module:
    """The model's module of this name, as in `model.named_modules()`.

    Args:
        model: wrapped or not.
        name: of the module.
        way_out: what an error says to do; names that look alike without it.

    Raises:
        UserError: it has none.
    """
    model = unwrapped(model)
    try:
        return model.get_submodule(name)
    except AttributeError:
        pass
    if way_out is None:
        names = [one for one, _ in model.named_modules() if one]
        last = name.rpartition(".")[2]
        near = get_close_matches(name, names, n=3, cutoff=0.6)
        near = near or [one for one in names if one.rpartition(".")[2] == last][:3]
        near = near or names[:3]
        way_out = f"near names are {', '.join(repr(one) for one in near)}"
    raise UserError(f"The model has no module named {name!r}; {way_out}.")
