"""A constant model, an untrained one and one that has learnt are told apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nlp_adv.attacks import PGD
from nlp_adv.attacks.subject import Subject
from nlp_adv.perturbation import LInfBall
from nlp_adv.robustness import evaluate_images, masking_checks
from nlp_adv.robustness.answers import Answers, check_answers, one_answer
from nlp_adv.robustness.statistics import Share

pytestmark = pytest.mark.fault("U1")

HALVES = [0, 1] * 50


def verdict(answers: list[int], labels: list[int]) -> bool | None:
    return check_answers(Answers.of(answers, labels)).passed


class TestVerdict:
    def test_constant(self):
        found = check_answers(Answers.of([1] * 100, HALVES))
        assert found.passed is False
        assert "class 1, given to 100 of 100 (100.0 %)" in found.finding
        assert "largest class has 50.0 % of the labels" in found.finding
        assert "50.0 % of the answers are right" in found.finding

    @pytest.mark.parametrize("other", [1, 3, 5])
    def test_nearly_constant(self, other):
        assert verdict([0] * other + [1] * (100 - other), HALVES) is False

    def test_constant_among_many_classes(self):
        assert verdict([7] * 100, list(range(10)) * 10) is False

    def test_a_constant_model_of_unequal_classes(self):
        """95 % right, and all of it the share of one class."""
        labels = [0] * 95 + [1] * 5
        assert verdict([0] * 100, labels) is False
        assert Answers.of([0] * 100, labels).right == Share(95, 100)

    def test_at_chance_is_undecided(self):
        assert verdict([0, 0, 1, 1] * 25, HALVES) is None

    def test_worse_than_one_class_is_undecided(self):
        assert verdict([1 - label for label in HALVES], HALVES) is None

    def test_what_has_learnt_passes(self):
        wrong = 20
        answers = [1 - label for label in HALVES[:wrong]] + HALVES[wrong:]
        assert verdict(answers, HALVES) is True

    def test_a_good_model_of_unequal_classes_passes(self):
        labels = [0] * 90 + [1] * 10
        assert verdict([0] * 90 + [1] * 9 + [0], labels) is True

    @pytest.mark.parametrize(
        ("answers", "labels"),
        [([1] * 100, [1] * 100), ([1] * 4, [1, 1, 1, 0]), ([1] * 100, [1] * 97 + [0] * 3)],
    )
    def test_what_its_texts_do_not_tell_is_undecided(self, answers, labels):
        assert verdict(answers, labels) is None


@pytest.mark.parametrize(
    ("largest", "label", "want"),
    [
        (1.0, 0.5, True), (1.0, 1.0, False), (0.96, 0.5, True), (0.94, 0.5, False),
        (0.96, 0.9, False), (1.0, 0.99, True),
    ],
)  # fmt: skip
def test_shares_alone(largest, label, want):
    assert one_answer(largest, label) is want


class Constant(nn.Module):
    """Says class 1, and shows the attack a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((16, 3), 1e-3) * torch.tensor([1.0, -1.0, 0.5]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight + torch.tensor([0.0, 5.0, 0.0])


class TestImages:
    @pytest.fixture
    def batches(self):
        x = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        return [(x, torch.arange(30) % 3)]

    @pytest.fixture
    def attack(self):
        return PGD(LInfBall(0.1), step_size=0.05, steps=3)

    def test_the_share_of_the_largest_answer(self, batches, attack):
        found = evaluate_images(Constant(), batches, [attack])
        assert found.answers == Answers(1, Share(30, 30), Share(10, 30), Share(10, 30))
        assert found.answers.constant
        assert found.is_constant
        assert found.worst_case == Share(10, 30)  # as robust as can be

    def test_the_checks_name_it(self, batches, attack):
        checks = masking_checks(Subject(Constant()), batches, attack)
        (found,) = [check for check in checks if check.name == "answers"]
        assert found.passed is False
        assert "30 of 30" in found.finding
