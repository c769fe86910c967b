"""δ on the output of any named module: a hidden layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from nlp_adv.errors import UserError
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
        names: of the modules, as in `model.named_modules()`, or numbers of the model's blocks, from
            0: "3" is the output of the fourth. Each has a δ of its own.

    Errors: UserError where there is no such module, where it returns no hidden states, or where
    it cannot be known which of them are padding (say so with a mask then).

    Cost: finding h runs the model up to it, once a step. Under gradient checkpointing the block
    that holds the module is not checkpointed.
    """

    def __init__(self, *names: str) -> None:
        super().__init__(*(partial(layer_tap, name=name) for name in names))


def layer_tap(model: nn.Module, name: str) -> Tap:
    """The hook on the module of this name, or on the block of this number, not yet installed."""
    model = unwrapped(model)
    module = block_of(model, int(name)) if name.isdecimal() else module_named(model, name)
    way = around(model, module)
    return Tap(module, around=way, kind="layer", flag="--adv_site layer:NAME")


def block_of(model: nn.Module, number: int) -> nn.Module:
    """One of the model's blocks, see `blocks_of`.

    Raises:
        UserError: it has no such block.
    """
    blocks = blocks_of(model)
    if number >= len(blocks):
        raise UserError(
            f"{type(unwrapped(model)).__name__} has {len(blocks)} blocks, 0 to {len(blocks) - 1}, "
            f"and none of number {number} (--adv_site layer:{number})."
        )
    return blocks[number]


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The model's blocks: the elements of its longest list of modules of one type.

    Raises:
        UserError: it has no such list, or several that are equally long.
    """
    model = unwrapped(model)
    lists = [list(one) for one in model.modules() if isinstance(one, nn.ModuleList)]
    alike = [one for one in lists if len({type(block) for block in one}) == 1]
    most = max(map(len, alike), default=0)
    longest = [one for one in alike if len(one) == most]
    if len(longest) != 1:
        raise UserError(
            f"{type(model).__name__} has {'several stacks' if longest else 'no stack'} of blocks, "
            f"so that a number (--adv_site layer:3) names none of them; write the name of a "
            f"module, layer:NAME."
        )
    return longest[0]


@contextmanager
def heard_blocks(model: nn.Module) -> Iterator[list[Tensor]]:
    """The outputs of the model's blocks, in their order, of the one pass within the block.

    Raises:
        UserError: as `blocks_of` does.
    """
    heard: dict[int, Tensor] = {}

    def hear(number: int) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            heard[number] = output if isinstance(output, Tensor) else output[0]

        return keep

    blocks, found = blocks_of(model), list[Tensor]()
    handles = [block.register_forward_hook(hear(n)) for n, block in enumerate(blocks)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    found += [heard[number] for number in range(len(blocks))]
