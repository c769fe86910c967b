"""Methods of other packages: registered by a decorator, or found as entry points."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest

from nlp_adv.methods import (
    METHODS,
    Scaled,
    StepReport,
    all_methods,
    build,
    describe,
    own_settings,
    register,
    registry,
)
from nlp_adv.perturbation import Ball, L2Ball, LInfBall, full_pass


@pytest.fixture(autouse=True)
def nobody_elses(monkeypatch):
    """No method but this package's, during the test and because of it."""
    monkeypatch.setattr(registry, "_others", {})
    monkeypatch.setattr(registry, "_entry_points_read", True)


class StepOnce:
    passes: ClassVar[int] = 1
    inner_passes: ClassVar[int] = 0

    def step(self, objective):
        loss = full_pass(objective, objective.mask * 0).loss
        return StepReport(loss, adversarial=loss)


@dataclass(frozen=True)
class Ours(StepOnce):
    ball: Ball
    step_size: float
    rounds: int = 2

    name: ClassVar[str] = "ours"

    @classmethod
    def preset(cls):
        return Scaled(cls(L2Ball(0.1), step_size=0.05), unit="relative")


# --- registered


def test_register_is_a_decorator():
    assert register(Ours) is Ours
    assert all_methods() == METHODS | {"ours": Ours}
    assert "ours" not in METHODS


def test_a_registered_method_is_built_and_described_as_any():
    register(Ours)
    assert build("ours") == Ours.preset()
    method = build("ours", epsilon=0.2, norm="linf", rounds=3)
    assert method == Scaled(Ours(LInfBall(0.2), step_size=0.1, rounds=3), "relative")
    flat = describe(method)
    assert flat["method"] == "ours"
    assert build(flat.pop("method"), **flat) == method
    assert own_settings(Ours) == {"step_size": float, "rounds": int}
    with pytest.raises(ValueError, match="ours has no steps; its settings are: epsilon, norm"):
        build("ours", steps=3)


def test_an_unknown_name_is_refused_with_the_registered_ones():
    register(Ours)
    with pytest.raises(ValueError, match=r"pgd.*ours"):
        build("theirs")


def test_registering_twice_is_registering_once():
    register(Ours)
    register(Ours)
    assert list(all_methods()).count("ours") == 1


@pytest.mark.parametrize("taken", ["pgd", "none", "ours"])
def test_a_name_that_is_taken_is_refused(taken):
    register(Ours)

    @dataclass(frozen=True)
    class Theirs(Ours):
        name: ClassVar[str] = taken

    with pytest.raises(ValueError, match=f"There is a method '{taken}' already"):
        register(Theirs)
    assert all_methods() == METHODS | {"ours": Ours}


def test_a_class_that_is_no_dataclass_is_refused():
    class Plain(StepOnce):
        name = "plain"

        @classmethod
        def preset(cls):
            return cls()

    with pytest.raises(ValueError, match="Plain is not a training method: it lacks @dataclass"):
        register(Plain)


@pytest.mark.parametrize("missing", ["step", "preset", "passes", "inner_passes", "name"])
def test_a_class_that_lacks_something_is_refused_by_its_name(missing):
    having = {
        "step": lambda self, objective: None,
        "preset": classmethod(lambda cls: cls()),
        "passes": 1,
        "inner_passes": 0,
        "name": "partial",
    }
    del having[missing]
    partial = dataclass(frozen=True)(type("Partial", (), having))
    with pytest.raises(ValueError, match=f"Partial is not a training method: it lacks.*{missing}"):
        register(partial)
    assert "partial" not in all_methods()


def test_passes_may_be_properties():
    @dataclass(frozen=True)
    class Counting(Ours):
        name: ClassVar[str] = "counting"

        @property
        def passes(self):
            return self.rounds

    register(Counting)
    assert build("counting", rounds=7).passes == 7


# --- entry points


class Point:
    """An entry point as importlib.metadata gives it."""

    def __init__(self, method, then=lambda: None) -> None:
        self.method, self.then, self.loaded = method, then, 0

    def load(self):
        self.loaded += 1
        self.then()
        return self.method


def install(monkeypatch, *points: Point) -> list[str]:
    """The groups that are asked for."""
    groups: list[str] = []
    monkeypatch.setattr(registry, "_entry_points_read", False)
    monkeypatch.setattr(registry, "entry_points", lambda group: groups.append(group) or points)
    return groups


def test_a_method_of_an_installed_package_is_found(monkeypatch):
    groups = install(monkeypatch, Point(Ours))
    assert build("ours") == Ours.preset()
    assert all_methods() == METHODS | {"ours": Ours}
    assert groups == ["nlp_adv.methods"]


def test_entry_points_are_loaded_once(monkeypatch):
    point = Point(Ours)
    install(monkeypatch, point)
    for _ in range(3):
        all_methods()
    assert point.loaded == 1


def test_a_package_may_ask_for_the_methods_while_it_is_loaded(monkeypatch):
    seen = []
    install(monkeypatch, Point(Ours, then=lambda: seen.extend(all_methods())))
    all_methods()
    assert seen == list(METHODS)


def test_a_package_may_register_what_it_also_names(monkeypatch):
    install(monkeypatch, Point(Ours, then=lambda: register(Ours)))
    assert all_methods() == METHODS | {"ours": Ours}


def test_an_entry_point_with_a_taken_name_is_refused(monkeypatch):
    @dataclass(frozen=True)
    class Theirs(Ours):
        name: ClassVar[str] = "pgd"

    install(monkeypatch, Point(Theirs))
    with pytest.raises(ValueError, match="There is a method 'pgd' already"):
        all_methods()


def test_an_entry_point_that_is_no_method_is_refused(monkeypatch):
    def main():
        pass

    install(monkeypatch, Point(main))
    with pytest.raises(ValueError, match="main is not a training method"):
        all_methods()


def test_a_method_registered_by_hand_is_there_beside_installed_ones(monkeypatch):
    @dataclass(frozen=True)
    class Mine(Ours):
        name: ClassVar[str] = "mine"

    install(monkeypatch, Point(Ours))
    register(Mine)
    assert all_methods() == METHODS | {"mine": Mine, "ours": Ours}


def test_a_preset_without_a_ball_keeps_its_lengths_when_it_is_given_one():
    @dataclass(frozen=True)
    class Unbounded(Ours):
        name: ClassVar[str] = "unbounded"

        @classmethod
        def preset(cls):
            return Scaled(cls(L2Ball(math.inf), step_size=0.05), unit="relative")

    register(Unbounded)
    assert build("unbounded") == Unbounded.preset()
    assert build("unbounded", epsilon=0.5).method.step_size == 0.05
