"""Where δ enters a language model: the output of the word-embedding module that really runs.

A forward hook adds δ there. Never `inputs_embeds`: models shift positions and pooling when they
see no ids. Never the weight matrix: that is another threat model.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.errors import UserError
from nlp_adv.perturbation import StepError, unwrapped


class EmbeddingError(StepError, RuntimeError):
    """The hooked embedding does not run as a step needs it; a Trainer makes a UserError of it."""


def find_embedding(model: nn.Module, name: str | None = None) -> nn.Module:
    """The word-embedding module that the model's forward calls.

    An encoder–decoder model shares its weights between three modules and calls the encoder's and
    the decoder's, never the one that `get_input_embeddings()` of the whole model returns; the
    encoder's is taken.

    Args:
        model: the model, wrapped or not.
        name: the module's name as in `model.named_modules()`, for models that do not say.

    Raises:
        UserError: no such module, or the model does not say which one it is.
    """
    model = unwrapped(model)
    if name is not None:
        try:
            return model.get_submodule(name)
        except AttributeError:
            raise UserError(
                f"The model has no module named {name!r}; choose the word embedding from "
                f"model.named_modules(), for example {_suggestion(model)}."
            ) from None
    if hasattr(model, "get_base_model"):  # PEFT
        model = model.get_base_model()  # type: ignore[operator]
    config = getattr(model, "config", None)
    try:
        if getattr(config, "is_encoder_decoder", False) or _encoder_of_a_pair(model):
            embedding = model.get_encoder().get_input_embeddings()  # type: ignore[operator]
        else:
            embedding = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        embedding = None
    if not isinstance(embedding, nn.Module):
        raise UserError(
            f"{type(model).__name__} does not say which module is its word embedding; name it "
            f"with `embedding` (--adv_embedding), for example {_suggestion(model)}."
        )
    return embedding


def _encoder_of_a_pair(model: nn.Module) -> bool:
    """A T5 encoder alone keeps the shared table of its family, and runs the encoder's own."""
    base = getattr(model, getattr(model, "base_model_prefix", ""), model)
    return hasattr(base, "shared") and hasattr(base, "encoder")


def _suggestion(model: nn.Module) -> str:
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Embedding) and n]
    return ", ".join(repr(n) for n in names[:3]) or "none: it has no nn.Embedding"


def embedding_tap(model: nn.Module, name: str | None = None) -> "EmbeddingTap":
    """The tap on the word embedding that `find_embedding` finds, not yet installed."""
    embedding = find_embedding(model, name)
    return EmbeddingTap(embedding, _sharing_stack(model, embedding, name))


def _sharing_stack(model: nn.Module, embedding: nn.Module, name: str | None) -> nn.Module | None:
    """Encoder or decoder, where both call this one embedding: the one whose call is perturbed.

    T5, BART and their like have a module each, and share one after `resize_token_embeddings`. The
    encoder's call is taken, unless the name given is the decoder's. None where nothing is shared.
    """
    model = unwrapped(model)
    if hasattr(model, "get_base_model"):  # PEFT
        model = model.get_base_model()  # type: ignore[operator]
    stacks = []
    for which in ("encoder", "decoder"):
        getter = getattr(model, f"get_{which}", None)
        stack = getter() if callable(getter) else None
        if isinstance(stack, nn.Module) and embedding in set(stack.modules()):
            stacks.append(stack)
    if len(stacks) < 2 or _overlap(*stacks):
        return None
    return stacks[name is not None and "decoder" in name.split(".")]


def _overlap(encoder: nn.Module, decoder: nn.Module) -> bool:
    """One holds the other: models of one stack answer both questions with it."""
    return encoder in set(decoder.modules()) or decoder in set(encoder.modules())


class EmbeddingTap:
    """A permanent hook on an embedding module that adds `delta` while it is set.

    Registering a hook for every step gives stale graphs under `torch.compile`; this one is
    installed once and reads δ from an attribute.

    Args:
        module: the embedding module, from `find_embedding`.
        within: the only module in whose forward pass a call of it counts, where several call it.

    Cost: one addition a pass while δ is set, nothing otherwise.
    """

    def __init__(self, module: nn.Module, within: nn.Module | None = None) -> None:
        self.module = module
        self.within = within
        self.delta: Tensor | None = None
        self.first_block: nn.Module | None = None  # of the same model, once it was looked for
        self._fired = 0
        self._with_graph = True
        self._looking = False
        self._seen: tuple[Tensor, Tensor] | None = None
        self._glimpsed: tuple[Tensor, Tensor] | None = None  # the same, of a call without a graph
        self._passed_by = 0  # calls without a graph, in a pass that has one
        self._inside = within is None
        self._handles: list[Any] = []

    def install(self) -> None:
        """Register the hook, once."""
        if self._handles:
            return
        self._handles = [self.module.register_forward_hook(self._hook, with_kwargs=True)]
        if self.within is not None:
            self._handles.append(self.within.register_forward_pre_hook(self._enter))
            self._handles.append(self.within.register_forward_hook(self._leave))

    def remove(self) -> None:
        """Take the hook away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The hook for the time of a block, where it is not permanent."""
        permanent = bool(self._handles)
        self.install()
        try:
            yield
        finally:
            if not permanent:
                self.remove()

    @contextmanager
    def adding(self, delta: Tensor) -> Iterator[None]:
        """Add δ to the embedding in every forward pass of the block; refuse silence.

        In a pass with a graph, a call without one sees the clean embedding and does not count: a
        reference model's, or a second look at the logits for a metric.

        Raises:
            EmbeddingError: the embedding ran no time, or more than once, so that δ was not applied
                as the method thinks it was; `NoGraphError` where it ran without a graph alone.
        """
        self.delta, self._fired, self._passed_by = delta, 0, 0
        self._inside = self.within is None
        self._with_graph = torch.is_grad_enabled()
        try:
            with self.installed():
                yield
        finally:
            self.delta = None
        if self._fired == 1:
            return
        times, kind = self._fired, type(self.module).__name__
        if times == 0 and self._passed_by:
            raise NoGraphError(
                f"The model runs its embedding ({kind}) without gradients (torch.no_grad), so no "
                f"perturbation of it can be trained on or climbed."
            )
        if times == 0:
            raise EmbeddingError(
                f"The hooked embedding ({kind}) did not run in a forward pass, so the perturbation "
                f"went nowhere; name the module that runs with `embedding` (--adv_embedding)."
            )
        raise EmbeddingError(
            f"The hooked embedding ({kind}) ran {times} times with a graph in one loss instead of "
            f"once, so the perturbation would be wrong: let the loss call the model once (calls "
            f"under torch.no_grad() do not count), or name the module that runs once with "
            f"`embedding` (--adv_embedding)."
        )

    def look(self, forward: Callable[[], object]) -> tuple[Tensor, Tensor]:
        """The ids that the embedding receives and the clean embedding, both as the model has them.

        `forward` runs the model up to the first call of the embedding with a graph, and is stopped
        there, so that transposed, flattened and padded inputs are seen as they are.

        Raises:
            EmbeddingError: the embedding did not run.

        Cost: one embedding look-up.
        """
        self._looking, self._with_graph, self._seen, self._glimpsed = True, True, None, None
        self._inside = self.within is None
        try:
            # Nobody comes for what is saved here: hooks around the step would keep it for ever.
            unseen = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)
            with self.installed(), torch.enable_grad(), unseen:
                forward()
        except _Seen:
            pass
        except Exception:
            if self._seen is None:
                raise
            # A bare `except:` caught the stop, and something went wrong for want of an output.
        finally:
            self._looking, seen, self._seen = False, self._seen, None
        seen = seen or self._glimpsed  # of a model that works without gradients
        if seen is not None:
            return seen
        raise EmbeddingError(
            f"The hooked embedding ({type(self.module).__name__}) did not run; name the module "
            f"that does with `embedding` (--adv_embedding)."
        )

    def _hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> Any:
        if not self._inside:
            return None
        if self._looking:
            self._look(args[0] if args else next(iter(kwargs.values())), output)
        if self.delta is None:
            return None
        if torch.is_grad_enabled() != self._with_graph:
            self._passed_by += 1
            return None
        self._fired += 1
        return output + self.delta.to(output.dtype)

    def _look(self, ids: Tensor, embedding: Any) -> None:
        if self._seen is not None:
            return
        found = ids, embedding.detach() if isinstance(embedding, Tensor) else embedding
        if not torch.is_grad_enabled():
            self._glimpsed = found
            return
        self._seen = found
        raise _Seen

    def _enter(self, *args: Any) -> None:
        self._inside = True

    def _leave(self, *args: Any) -> None:
        self._inside = False


class NoGraphError(EmbeddingError):
    """The model runs its embedding without a graph, and nowhere else."""


class _Seen(BaseException):
    """Stops a forward pass. No Exception, since code around the model may catch those."""
