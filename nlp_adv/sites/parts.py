"""The share of δ of one call of a module: its clean output, whose tokens it holds, what may move.

The δ of several calls, of one module or of several, lie side by side; a call with fewer rows than
others leaves the last rows of its columns empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.errors import UserError
from nlp_adv.perturbation import Segments, unwrapped
from nlp_adv.sites.taps import Seen, Tap
from nlp_adv.sites.tokens import Tokens, among, placeholders, tokens_of


@dataclass(frozen=True, eq=False)
class Part:
    """The share of δ of one call of a module.

    Args:
        tap: the hook on the module.
        x: its clean output with the batch first, (B, T, D), (B, D) or (B, C, H, W).
        turned: the model has the tokens first, (T, B, D).
        tokens: the tokens of its stack, where its output has one hidden state for each.
        known: whether it is known which coordinates of x are real.
        embeds: it is an embedding.
        ids: the first argument of an embedding, the rows of its table, (B, T).
    """

    tap: Tap
    x: Tensor
    turned: bool
    tokens: Tokens | None
    known: bool
    embeds: bool
    ids: Tensor | None

    @property
    def width(self) -> int:
        """How many columns of δ it has: its tokens, or one."""
        return self.x.shape[1] if self.x.ndim == 3 else 1

    def give(self, delta: Tensor) -> Tensor:
        """δ as the module's output has it."""
        return delta.transpose(0, 1) if self.turned else delta

    def cut(self, columns: Tensor) -> Tensor:
        """Its share in the shape of x, of its columns (R, T, D)."""
        numbers = self.x.shape[-1] if self.x.ndim == 3 else self.x[0].numel()
        share = columns[: len(self.x), :, :numbers]
        return share if self.x.ndim == 3 else share.reshape(-1, *self.x.shape[1:])


def part_of(tap: Tap, seen: Seen, batch: Mapping[str, Any], model: nn.Module) -> Part:
    """What was seen at a call of a module, with the batch first."""
    embeds = tap.kind == "embedding"
    x, argument = seen.output, seen.argument
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
        raise _odd_output(tap, x)
    tokens = tokens_of(tap, seen, batch, model, embeds=embeds)
    ids = argument if isinstance(argument, Tensor) and not argument.is_floating_point() else None
    if embeds and tokens is not None and x.ndim == 2 and x.shape[0] == tokens.ids.shape[1]:
        x = x[None]  # one vector a position, the same for all examples
    if embeds and x.ndim != 3:
        raise _odd_output(tap, x)
    turned = tokens is not None and x.ndim == 3 and _is_turned(x, ids, tokens.ids, model)
    x = x.transpose(0, 1) if turned else x
    if tokens is not None and x.ndim == 3 and x.shape[:2] == (1, tokens.ids.shape[1]):
        x = x.expand(len(tokens.ids), *x.shape[1:])
    has_tokens = tokens is not None and x.ndim == 3
    fits = has_tokens and tokens is not None and x.shape[:2] == tokens.ids.shape
    if has_tokens and not fits and tokens is not None and not embeds:
        tokens = _padded(tokens, x, model)
        fits = tokens is not None
    if embeds and not fits:
        raise _odd_output(tap, x)
    if ids is not None and embeds and tokens is not None:
        ids = ids.T if turned else ids
        ids = ids.expand(tokens.ids.shape) if ids.numel() != tokens.ids.numel() else ids
    # Without ids there is no padding: pixels and sounds come whole, unless a mask says otherwise.
    known = fits or not has_tokens
    if tokens is None and x.ndim == 3:
        known = not isinstance(batch.get("attention_mask"), Tensor)
    return Part(tap, x, turned, tokens if fits else None, known, embeds, ids)


def _odd_output(tap: Tap, output: Any) -> UserError:
    shape = f", but {tuple(output.shape)}" if isinstance(output, Tensor) else ""
    if tap.kind == "embedding":
        return UserError(
            f"The embedding {type(tap.module).__name__} does not return one (batch, tokens, width) "
            f"tensor{shape}; name another module with `embedding` (--adv_embedding), or take it "
            f"for a layer (--adv_site layer:NAME)."
        )
    return UserError(
        f"The layer {type(tap.module).__name__} does not return hidden states (B, T, D), (B, D) or "
        f"(B, C, H, W){shape}; name another module with --adv_site layer:NAME."
    )


def _is_turned(x: Tensor, argument: Tensor | None, ids: Tensor, model: nn.Module) -> bool:
    """XLNet runs its batch in the second dimension; δ keeps it in the first."""
    rows, tokens = ids.shape
    if x.shape[:2] != (tokens, rows):
        return False
    if rows != tokens:
        return True
    xlnet = getattr(getattr(unwrapped(model), "config", None), "model_type", "") == "xlnet"
    if argument is None or argument.shape != ids.shape or torch.equal(ids, ids.T):
        return xlnet  # a square batch that does not show which way it lies
    return xlnet or (torch.equal(argument, ids.T) and not torch.equal(argument, ids))


def _padded(tokens: Tokens, x: Tensor, model: nn.Module) -> Tokens | None:
    """The tokens of a model that pads its input to a window of attention; else None."""
    missing = x.shape[1] - tokens.ids.shape[1]
    config = getattr(unwrapped(model), "config", None)
    if missing <= 0 or x.shape[0] != len(tokens.ids) or not hasattr(config, "attention_window"):
        return None
    pad = (0, missing)
    return Tokens(nn.functional.pad(tokens.ids, pad), nn.functional.pad(tokens.real, pad))


def mask_of(part: Part, special_ids: Sequence[int], model: nn.Module) -> Tensor:
    """1 where δ may move, the shape of the part's x."""
    wide = torch.promote_types(part.x.dtype, torch.float32)
    if part.tokens is None:
        return torch.ones_like(part.x, dtype=wide)
    tokens = part.tokens
    free = tokens.real
    if special_ids:
        free = free & ~among(tokens.ids, list(special_ids))
    if part.embeds and (overwritten := placeholders(model)):
        free = free & ~among(tokens.ids, overwritten)
    return free.to(wide)[..., None].expand(part.x.shape)


def joined(
    parts: Sequence[Part], masks: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Segments | None]:
    """(R, ΣT, D) of several outputs, the mask, and which segment each column belongs to (R, ΣT).

    A segment is one call, or one text where several are packed in a row of it. One call of one text
    a row has x as it is, and no segments.
    """
    numbers, count = [], 0
    for part in parts:
        texts = None if part.tokens is None else part.tokens.texts
        if texts is None:
            texts = Segments(part.x.new_zeros(len(part.x), part.width, dtype=torch.long), 1)
        numbers.append(texts.index + count)
        count += texts.count
    if len(parts) == 1:
        segments = Segments(numbers[0], count) if count > 1 else None
        return parts[0].x, masks[0], segments
    dtype = parts[0].x.dtype
    for part in parts:
        dtype = torch.promote_types(dtype, part.x.dtype)
    x = side_by_side([_columns(part.x).to(dtype) for part in parts])
    mask = side_by_side([_columns(one) for one in masks])
    return x, mask, Segments(side_by_side(numbers), count)


def _columns(value: Tensor) -> Tensor:
    return value if value.ndim == 3 else value.flatten(1)[:, None]


def side_by_side(values: Sequence[Tensor]) -> Tensor:
    """(R, ΣT) or (R, ΣT, D), with 0 where one has fewer rows or is narrower."""
    rows = max(len(one) for one in values)
    width = max(one.shape[-1] for one in values)

    def filled(one: Tensor) -> Tensor:
        down = (0, rows - len(one))
        across = (0, 0) if one.ndim == 2 else (0, width - one.shape[-1], 0, 0)
        return nn.functional.pad(one, (*across, *down))

    return torch.cat([filled(one) for one in values], 1)


def restricted(mask: Tensor, own: Tensor | None, parts: tuple[Part, ...]) -> Tensor:
    """The site's mask times the user's.

    Raises:
        UserError: the user's fits no tokens; or a module needs one.
    """
    if own is None:
        for part in parts:
            if not part.known:
                raise UserError(
                    f"Which tokens of the output {tuple(part.x.shape)} of "
                    f"{type(part.tap.module).__name__} are real cannot be known from the batch; "
                    f"say so with a mask of 0 and 1, `objective(…, mask=…)` or the column "
                    f"adv_mask, of shape {tuple(part.x.shape[:2])}."
                )
        return mask
    own = own.to(mask.device, mask.dtype)
    own = own.flatten(0, 1) if own.ndim == 3 and len(own) != len(mask) else own
    if own.shape == mask.shape:
        return mask * own
    if mask.ndim == 3 and own.shape == mask.shape[:2]:
        return mask * own[..., None]
    if mask.ndim == 3 and all(part.x.shape[:2] == own.shape for part in parts):
        return mask * own.repeat(1, len(parts))[..., None]
    wanted = " and ".join(str(tuple(part.x.shape[:2])) for part in parts if part.x.ndim == 3)
    raise UserError(
        f"The mask {tuple(own.shape)} does not fit the tokens that δ is added to: "
        f"{wanted or 'the output ' + str(tuple(mask.shape)) + ' has none'}."
    )


def why_nothing(own: Tensor | None, special_ids: Sequence[int]) -> str:
    """Why δ would stay 0, for `refuse_nothing`."""
    causes = []
    if own is not None:
        causes.append("the mask (mask=, adv_mask) is 0 on every token that is no padding")
    if special_ids:
        causes.append("special tokens are left out (--adv_exclude_special_tokens)")
    return ", and ".join(causes)


def content_of(batch: Mapping[str, Any], with_tokens: list[Tokens], mask: Tensor) -> dict[str, Any]:
    """What the examples are named after: the ids of the modules' stacks, or the batch's."""
    if with_tokens:
        found = {
            "content": side_by_side([tokens.ids for tokens in with_tokens]),
            "real": side_by_side([tokens.real for tokens in with_tokens]),
        }
        free = mask.flatten(2).amax(2) > 0 if mask.ndim == 3 else None
        return found | (
            {"free": free} if free is not None and free.shape == found["real"].shape else {}
        )
    ids = batch.get("input_ids")
    if isinstance(ids, Tensor):
        attention = batch.get("attention_mask")
        real = torch.ones_like(ids, dtype=torch.bool)
        if isinstance(attention, Tensor) and attention.shape == ids.shape:
            real = attention != 0
        return {"content": ids.flatten(1), "real": real.flatten(1)}
    inputs = [v for v in batch.values() if isinstance(v, Tensor) and v.is_floating_point()]
    return {"content": inputs[0]} if inputs else {"content": mask}


def counted_in(
    with_tokens: list[Tokens], special_ids: Sequence[int], batch: Mapping[str, Any]
) -> dict[str, Any]:
    """The real tokens of the last call, and its packed texts; of a layer without, the batch's."""
    if with_tokens:
        tokens, real = with_tokens[-1], with_tokens[-1].real
        real = real & ~among(tokens.ids, list(special_ids)) if special_ids else real
        return {"tokens": real, "texts": tokens.texts}
    attention = batch.get("attention_mask")
    known = isinstance(attention, Tensor) and attention.ndim == 2
    return {"tokens": attention != 0 if known and attention is not None else None}


def looked_up(parts: Sequence[Part]) -> dict[str, Any]:
    """The table that all of x is looked up in, where it is one, and its rows."""
    weight = getattr(parts[0].tap.module, "weight", None)
    one_table = parts[0].embeds and all(part.tap is parts[0].tap for part in parts)
    if not one_table or not isinstance(weight, nn.Parameter):
        return {}
    ids = [part.ids for part in parts if part.ids is not None]
    return {"table": weight, "ids": side_by_side(ids) if len(ids) == len(parts) else None}
