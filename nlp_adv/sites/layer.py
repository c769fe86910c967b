"""δ on the output of any named module: a hidden layer."""

from functools import partial

from torch import nn

from nlp_adv.perturbation import unwrapped
from nlp_adv.sites.modules import ModuleSite, around
from nlp_adv.sites.names import module_named
from nlp_adv.sites.taps import Tap


class LayerSite(ModuleSite):
    """δ on hidden states: h + δ goes on through the model where module `name` returns h.

        method.step(objective(model, batch, LayerSite("bert.encoder.layer.3")))

    h is (B, T, D), (B, D) or (B, C, H, W). Of an output of several values it is `last_hidden_state`
    or the first tensor. The mask is that of the ids which the module's own stack receives, the
    encoder's or the decoder's; all of h is free where it has no tokens, and where the model reads
    pixels. Lengths in the unit "relative" are shares of the norm of h.

    Args:
        names: of the modules, as in `model.named_modules()`. Each has a δ of its own.

    Errors: UserError where there is no such module, where it returns no hidden states, or where
    it cannot be known which of them are padding (say so with a mask then).

    Cost: finding h runs the model up to it, once a step. Under gradient checkpointing the block
    that holds the module is not checkpointed.
    """

    def __init__(self, *names: str) -> None:
        super().__init__(*(partial(layer_tap, name=name) for name in names))


def layer_tap(model: nn.Module, name: str) -> Tap:
    """The hook on the module of this name, not yet installed."""
    model = unwrapped(model)
    module = module_named(model, name)
    way = around(model, module)
    return Tap(module, around=way, kind="layer", flag="--adv_site layer:NAME")
