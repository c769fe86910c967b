"""Where δ enters a language model: the output of the word-embedding module that really runs.

A forward hook adds δ there. Never `inputs_embeds`: models shift positions and pooling when they
see no ids. Never the weight matrix: that is another threat model.
"""

import re
from functools import partial
from typing import Any

from torch import nn

from nlp_adv.errors import UserError
from nlp_adv.perturbation import unwrapped
from nlp_adv.sites.modules import ModuleSite, around
from nlp_adv.sites.names import module_named
from nlp_adv.sites.taps import EmbeddingError, NoGraphError, Tap
from nlp_adv.sites.tokens import stacks

__all__ = [
    "EmbeddingError",
    "EmbeddingSite",
    "EmbeddingTap",
    "NoGraphError",
    "embedding_tap",
    "find_embedding",
]

EmbeddingTap = Tap


class EmbeddingSite(ModuleSite):
    """δ on word embeddings, (B, T, D), or on other embeddings that a model adds to them.

    Args:
        names: of the embedding modules, as in `model.named_modules()`; without one, the word
            embedding that the model's forward calls. Each has a δ of its own.
    """

    def __init__(self, *names: str | None) -> None:
        super().__init__(*(partial(embedding_tap, name=name) for name in names or (None,)))

    @classmethod
    def of(cls, model: nn.Module, tap: Tap) -> "EmbeddingSite":
        """The site of a hook that was made before."""
        site = cls()
        site._model, site._taps = unwrapped(model), [tap]
        return site


def find_embedding(model: nn.Module, name: str | None = None) -> nn.Module:
    """The word-embedding module that the model's forward calls.

    An encoder–decoder model shares its weights between three modules and calls the encoder's and
    the decoder's, never the one that `get_input_embeddings()` of the whole model returns; the
    encoder's is taken. Of a model that holds one Hugging Face model, as those of
    sentence-transformers do, it is that one's.

    Args:
        model: the model, wrapped or not.
        name: the module's name as in `model.named_modules()`, for models that do not say.

    Raises:
        UserError: no such module, it is one of several hash shards, or the model does not say which
            one it is.
    """
    model = unwrapped(model)
    if name is not None:
        named = module_named(
            model,
            name,
            f"choose the word embedding from model.named_modules(){_for_example(model)}",
        )
        if name in (shards := _shards(model)):
            raise UserError(
                f"{name!r} is one of several tables that hold a slice of each embedding; name the "
                f"module that joins them, {shards[name]!r}."
            )
        return named
    embedding = _word_embedding(model)
    if embedding is None and not _for_example(model):
        raise UserError(
            f"{type(model).__name__} has no nn.Embedding; name the module whose output shall be "
            f"perturbed by --adv_site layer:NAME."
        )
    if embedding is None:
        raise UserError(
            f"{type(model).__name__} does not say which module is its word embedding; name it "
            f"with `embedding` (--adv_embedding){_for_example(model)}."
        )
    return embedding


def _word_embedding(model: nn.Module) -> nn.Module | None:
    """What the model, or the only one in it, says is its word embedding."""
    if hasattr(model, "get_base_model"):  # PEFT
        model = model.get_base_model()  # type: ignore[operator]
    config = getattr(model, "config", None)
    embedding: Any = None
    try:
        if getattr(config, "is_encoder_decoder", False) or _encoder_of_a_pair(model):
            embedding = model.get_encoder().get_input_embeddings()  # type: ignore[operator]
        else:
            embedding = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        pass
    if isinstance(embedding, nn.Module):
        return embedding
    held = _only_model_in(model)
    return None if held is None else _word_embedding(unwrapped(held))


def _only_model_in(model: nn.Module) -> nn.Module | None:
    """The one module in it that can be asked for its embedding; None where there are several.

    A model that can be asked itself has given its answer.
    """
    found: list[nn.Module] = []
    waiting = [] if hasattr(model, "get_input_embeddings") else list(model.children())
    while waiting:
        one = waiting.pop()
        if hasattr(one, "get_input_embeddings"):
            found.append(one)
        else:
            waiting += one.children()
    return found[0] if len(set(found)) == 1 else None


def _encoder_of_a_pair(model: nn.Module) -> bool:
    """A T5 encoder alone keeps the shared table of its family, and runs the encoder's own."""
    base = getattr(model, getattr(model, "base_model_prefix", ""), model)
    return hasattr(base, "shared") and hasattr(base, "encoder")


def _for_example(model: nn.Module) -> str:
    tables = [n for n, m in model.named_modules() if isinstance(m, nn.Embedding) and n]
    shards = _shards(model)
    names = dict.fromkeys(shards.get(name, name) for name in tables)
    return ", for example " + ", ".join(map(repr, list(names)[:3])) if names else ""


def _shards(model: nn.Module) -> dict[str, str]:
    """The tables that hold a slice of each embedding, with the module that joins the slices.

    CANINE hashes a character several times, and joins a narrow embedding of each hash. Such tables
    are numbered, alike, lie side by side, and their widths add up to the model's.
    """
    groups: dict[tuple[str, str, int, int], list[str]] = {}
    for name, module in model.named_modules():
        numbered = re.fullmatch(r"(.*?)[._]?\d+", name)
        if isinstance(module, nn.Embedding) and numbered:
            shape = module.num_embeddings, module.embedding_dim
            above = name.rpartition(".")[0]
            groups.setdefault((above, numbered.group(1), *shape), []).append(name)
    config = getattr(model, "config", None)
    sizes = {getattr(config, key, None) for key in ("hidden_size", "d_model", "embedding_size")}
    found: dict[str, str] = {}
    for (above, _, _, width), names in groups.items():
        if len(names) < 2 or (config is not None and width * len(names) not in sizes):
            continue
        if isinstance(model.get_submodule(above), nn.ModuleList):
            above = above.rpartition(".")[0]
        found |= dict.fromkeys(names, above)
    return found


def embedding_tap(model: nn.Module, name: str | None = None) -> Tap:
    """The hook on the word embedding that `find_embedding` finds, not yet installed."""
    embedding = find_embedding(model, name)
    within = _sharing_stack(model, embedding, name)
    return Tap(embedding, within, around=around(unwrapped(model), embedding, within)[1:])


def _sharing_stack(model: nn.Module, embedding: nn.Module, name: str | None) -> nn.Module | None:
    """Encoder or decoder, where both call this one embedding: the one whose call is perturbed.

    T5, BART and their like have a module each, and share one after `resize_token_embeddings`. The
    encoder's call is taken, unless the name given is the decoder's. None where nothing is shared.
    """
    pair = stacks(model)
    if pair is None or any(embedding not in set(stack.modules()) for stack in pair):
        return None
    return pair[name is not None and "decoder" in name.split(".")]
