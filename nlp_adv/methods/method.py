"""What every training method is: a frozen dataclass that takes one step on an objective."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from nlp_adv.perturbation import Ball, Memory, Objective, Output, StepError, ascend


class StepReport(NamedTuple):
    """The losses of one step, each (), detached, unscaled."""

    loss: Tensor
    """What ∇θ is the gradient of: the weighted sum."""
    adversarial: Tensor | None = None
    """The loss at the perturbed points, averaged where there are several."""
    clean: Tensor | None = None
    """The loss at δ = 0, where the method passes there."""
    divergence: Tensor | None = None
    """How far the perturbed outputs are from the clean ones, unweighted."""
    groups: Mapping[str, Tensor] | None = None
    """The loss of each group of rows, unweighted, where the method reads completions."""

    def detached(self) -> "StepReport":
        """The same numbers without their graphs."""

        def without(loss: Tensor | None) -> Tensor | None:
            return None if loss is None else loss.detach()

        return StepReport(
            self.loss.detach(),
            without(self.adversarial),
            without(self.clean),
            without(self.divergence),
            self.groups and {name: one.detach() for name, one in self.groups.items()},
        )


class Method(Protocol):
    """A training method; its fields are its configuration.

    A method may also declare `forward_passes`, without any gradient, and `prefix_passes`, through
    the first block alone; what it does not declare is 0. `inner_share` is the share of the rows
    that passes for ∇δ run on, 1 where it is not declared; `prefix_once = True` says that what lies
    below δ is computed in the first of them alone. `mixes_rows = True` says that without the
    clean loss of its field `clean_weight` a method makes one full pass, at a δ that is known before
    it, so that it can attack some rows of a batch (`SomeRows`).

    One that asks the objective for a `divergence` declares `compares_outputs = True`: a Trainer's
    `compute_loss` is then asked for the outputs that it compares. `reads_completions = True` says
    that its losses are its own, of the completions of a paired batch (`PairedObjective`): a Trainer
    then runs the model itself, and what `compute_loss` makes of a batch does not count;
    `reads_reference = True`, that it compares the model with what it was before training.
    `whole_weights = True` says that
    it reads or moves weight matrices as a whole, and `reads_table = True` that it keeps a row for
    each word of the embedding matrix; training in shards refuses what it cannot give them. `idle`
    says in a sentence why its settings leave ordinary training, where they do; the command line
    refuses them; `waits_an_epoch = True`, that they do so until examples come a second time.
    `depths` are shares of a model's depth at whose blocks, and at the embeddings, δ enters where no
    site is named. `check_model(model)` raises ValueError where its settings name what a model does
    not have; a Trainer asks before it trains.
    """

    @property
    def name(self) -> str:
        """What follows `--adv`."""
        ...

    @property
    def passes(self) -> int:
        """Passes with a graph to θ: one clean step each."""
        ...

    @property
    def inner_passes(self) -> int:
        """Passes that compute ∇δ alone: ⅔ of a clean step each."""
        ...

    def step(self, objective: Objective) -> StepReport:
        """Accumulate ∇θ on one minibatch."""
        ...


class BallMethod(Method, Protocol):
    """A method that moves δ in a ball."""

    @property
    def ball(self) -> Ball:
        """The constraint on δ."""
        ...


def mixed(clean_weight: float, clean: Tensor | None, adversarial: Tensor) -> StepReport:
    """The report on w·clean + (1−w)·adversarial; the clean loss may be unknown when w is 0."""
    if clean_weight == 0 or clean is None:
        return StepReport(adversarial, adversarial=adversarial, clean=clean)
    loss = clean_weight * clean + (1 - clean_weight) * adversarial
    return StepReport(loss, adversarial=adversarial, clean=clean)


def random_start(objective: Objective, ball: Ball, magnitude: float) -> Tensor:
    """δ ~ U(−m, m) / ‖1‖ on the free coordinates, projected: m is the norm of the cube's corner.

    ‖1‖ is √n for L2, n being a slice's free coordinates, and 1 for L∞.
    """
    mask = objective.mask
    if magnitude == 0:
        return torch.zeros_like(mask)
    cube = torch.empty_like(mask, memory_format=torch.contiguous_format)
    cube.uniform_(-magnitude, magnitude, generator=objective.generator)
    return ball.project(cube * mask / ball.norm(mask).clamp_min(1))


def farthest(
    objective: Objective,
    clean: Output,
    *,
    ball: Ball,
    step_size: float | Tensor,
    steps: int,
    init_magnitude: float,
    symmetric: bool = False,
) -> Tensor:
    """Where δ moves the output away from the clean one: K ascents of D(f(x), f(x + δ)).

    From a random start, since at δ = 0 the divergence is least and has no gradient.
    """
    target = clean.detached()

    def divergence(output: Output) -> Tensor:
        return objective.divergence(target, output, symmetric=symmetric)

    return ascend(
        lambda delta: objective.gradient(delta, divergence),
        random_start(objective, ball, init_magnitude),
        ball=ball,
        step_size=step_size,
        steps=steps,
    )


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name, the same whether the model is wrapped for several processes."""
    return {
        re.sub(r"^((module|_orig_mod)\.)+", "", name): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@contextmanager
def replaced(weights: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """Other values in the weights inside the block, the old ones to the last bit after it.

    Storages change places; nothing is copied.
    """
    before = [weight.data for weight in weights]
    _set(weights, values)
    try:
        yield
    finally:
        _set(weights, before)


def _set(weights: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.data = value
    torch.clear_autocast_cache()  # in one long autocast block it holds casts of the others


def floor_cost(method: Method, blocks: int | None = None, below: float = 0.0) -> float:
    """The least a step can cost, in clean steps: one forward and two halves of a backward each.

    A full pass is 1; a pass for ∇δ alone skips the weight gradients, a third of the work, and costs
    the share of the rows that it runs on; a forward pass alone is a third; a pass through the first
    of so many blocks is its share of ⅔, and is not counted where their number is not given.

    Args:
        method: a method.
        blocks: of the model.
        below: the share of the model that lies below δ, 0 for word embeddings. No gradient goes
            there in a pass for ∇δ alone, nor anything from the second such pass on where the prefix
            is computed once.
    """
    forward_passes = getattr(method, "forward_passes", 0)
    prefix_passes = getattr(method, "prefix_passes", 0) / blocks if blocks else 0
    above = 2 / 3 * (1 - below) * method.inner_passes
    once = min(1, method.inner_passes)
    under = below / 3 * (once if getattr(method, "prefix_once", False) else method.inner_passes)
    inner = (above + under) * getattr(method, "inner_share", 1)
    return method.passes + inner + 2 / 3 * prefix_passes + forward_passes / 3


def check_weight(clean_weight: float) -> None:
    """Refuse a `clean_weight` outside [0, 1)."""
    if not 0 <= clean_weight < 1:
        raise ValueError(
            f"clean_weight must be in [0, 1), the rest goes to the adversarial loss; "
            f"{clean_weight} is not."
        )


def check_steps(steps: int, *, at_least: int, name: str = "steps") -> None:
    """Refuse a number of steps that the method cannot make."""
    if not at_least <= steps < float("inf") or steps != int(steps):
        raise ValueError(f"{name} must be an integer ≥ {at_least}, not {steps}.")


def check_replays(memory: Memory, name: str, replays: int) -> None:
    """Refuse minibatches that do not come `replays` times in a row: their δ would be thrown away.

    Raises:
        StepError: two first replays come one after the other.
    """
    key = f"{name}/{memory.slot}/replay"
    if replays > 1 and memory.replay == 0 and memory.tensors.get(key) == 0:
        raise StepError(
            f"{name} was given two minibatches in a row as their first replay: give each "
            f"{replays} times, and count memory.replay = 0, 1, …."
        )
    memory.tensors[key] = torch.tensor(memory.replay)


def check_nonnegative(name: str, value: float | Tensor) -> None:
    """Refuse a negative or non-finite length or weight."""
    if not isinstance(value, Tensor) and not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a finite number ≥ 0, not {value}.")


def check_bounded(ball: Ball, what: str) -> None:
    """Refuse a ball without radius where the method needs its size."""
    if not isinstance(ball.epsilon, Tensor) and ball.epsilon == float("inf"):
        raise ValueError(f"epsilon must be finite: {what}.")


def check_off_centre(name: str, length: float, ball: Ball) -> None:
    """Refuse to start at the clean point, where a divergence is least and has no gradient."""
    check_nonnegative(name, length)
    no_attack = not isinstance(ball.epsilon, Tensor) and ball.epsilon == 0
    if length == 0 and not no_attack:
        raise ValueError(
            f"{name} must be > 0, not {length}: at the clean point a divergence has no gradient."
        )
