"""Which model and which attack a number is of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn


def fingerprint(model: nn.Module) -> str:
    """12 hexadecimal digits of SHA-256 over all weights and buffers that are saved, by name.

    Cost: one reading of the model.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # A number alone has no bytes to view, a row of one has.
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def attack_fingerprint(attack: Any, **more: Any) -> str:
    """12 hexadecimal digits of SHA-256 over an attack's kind and fields, as JSON.

    An attack that has a `fingerprint` says it itself.

    Args:
        attack: a dataclass whose fields are its configuration.
        more: what else its numbers depend on.
    """
    own = getattr(attack, "fingerprint", None)
    content = [own if own is not None else described(attack), described(more)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def described(value: Any) -> Any:
    """As JSON holds it: of objects the kind and what it is made of."""
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: described(getattr(value, field.name)) for field in fields(value)}
        return {"kind": type(value).__name__, **own}
    if isinstance(value, Mapping):
        return {str(key): described(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [described(one) for one in value]
    if isinstance(value, Tensor):
        return value.tolist()
    if value is None or isinstance(value, str | int | float):
        return value
    return getattr(value, "__qualname__", str(value))
