"""Methods around a method: they change how it is asked or what it asks, and are methods too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

from nlp_adv.methods.method import BallMethod, Method, StepReport
from nlp_adv.perturbation import Ball, Objective


@dataclass(frozen=True)
class Around:
    """Another method, in all that a subclass does not change. Any number go around each other.

    Args:
        method: the other one.
    """

    method: Method

    @property
    def name(self) -> str:
        """The other's."""
        return self.method.name

    @property
    def ball(self) -> Ball:
        """The other's; AttributeError where it has none."""
        return cast(BallMethod, self.method).ball

    @property
    def passes(self) -> int:
        """The other's."""
        return self.method.passes

    @property
    def inner_passes(self) -> int:
        """The other's."""
        return self.method.inner_passes

    @property
    def inner_share(self) -> float:
        """The other's."""
        return getattr(self.method, "inner_share", 1.0)

    @property
    def prefix_once(self) -> bool:
        """The other's."""
        return getattr(self.method, "prefix_once", False)

    @property
    def forward_passes(self) -> int:
        """The other's."""
        return getattr(self.method, "forward_passes", 0)

    @property
    def prefix_passes(self) -> int:
        """The other's."""
        return getattr(self.method, "prefix_passes", 0)

    def step(self, objective: Objective) -> StepReport:
        """The other's step."""
        return self.method.step(objective)


def bare(method: Method) -> Any:
    """The method itself, without what is around it."""
    while isinstance(method, Around):
        method = method.method
    return method


def found_around(method: Method, kind: type[Around]) -> Any:
    """The outermost of this kind around the method; None where there is none."""
    while isinstance(method, Around):
        if isinstance(method, kind):
            return method
        method = method.method
    return None


def with_bare(method: Method, inner: Method) -> Method:
    """What is around the method, around `inner` instead."""
    if isinstance(method, Around):
        return cast(Method, replace(method, method=with_bare(method.method, inner)))
    return inner
