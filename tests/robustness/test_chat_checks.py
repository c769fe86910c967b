"""Restarts and masking checks in evaluations of language models."""

from itertools import pairwise

import pytest
from chat_small import ASKED, Sure, evaluated, shallow_model

from nlp_adv.attacks.chat.gcg import GCG
from nlp_adv.attacks.chat.judge import Judge
from nlp_adv.attacks.chat.reading import ReadingJudge
from nlp_adv.data.chat_demo import (
    REFUSALS,
)
from nlp_adv.data.prompts import Prompts
from nlp_adv.robustness.chat_attacks import ChatAttacks
from nlp_adv.robustness.checks_chat import check_unbounded, check_words


@pytest.fixture(scope="module")
def model():
    return shallow_model()


def outcomes(found, order=None):
    """{(title, prompt): outcome}."""
    return {(one.title, one.text): one.outcome for one in found.records}


def test_more_starts_get_no_fewer_answers_whatever_the_batch(model):
    """Starts are each request's own, and what one start has answered is answered."""
    names, radii = ("pgd", "latent-pgd"), (0.1, 0.2, 0.3)
    given = {"names": names, "epsilons": radii, "layer_epsilons": radii, "steps": 2}
    one = outcomes(evaluated(model, attacks=ChatAttacks(**given), benign=[]))
    attacks = ChatAttacks(**given, restarts=4)
    several = evaluated(model, attacks=attacks, benign=[])
    many = outcomes(several)
    assert all(many[key] == "fooled" for key, outcome in one.items() if outcome == "fooled")
    turned = Prompts(ASKED.prompts[::-1], ASKED.targets[::-1])
    alone = Prompts(ASKED.prompts[1:2], ASKED.targets[1:2])
    assert outcomes(evaluated(model, attacks=attacks, benign=[], prompts=turned)) == many
    single = outcomes(evaluated(model, attacks=attacks, benign=[], prompts=alone))
    assert single.items() <= many.items()
    passes = [sum(r.found.gradient_passes for r in several.of(t)) for t in several.titles]
    assert max(passes) > 2 * len(ASKED.prompts)


def test_answered_at_a_radius_is_answered_at_larger_ones(model):
    radii = (0.05, 0.1, 0.2, 0.4, 0.8)
    for judge in (Judge("exact", REFUSALS), ReadingJudge.of(Sure(), REFUSALS)):
        attacks = ChatAttacks(names=("pgd",), epsilons=radii, steps=4)
        found = evaluated(model, attacks=attacks, judge=judge, benign=[])
        robust = [
            {r.id for r in found.of(title) if r.outcome == "robust"} for title in found.titles
        ]
        assert len(robust) == len(radii)
        assert all(larger <= smaller for smaller, larger in pairwise(robust))
        assert len(robust[0]) > len(robust[-1])


CHECKED = ChatAttacks(names=("pgd",), epsilons=(0.5,), steps=8)


def test_masking_checks_of_prompts(model, tmp_path):
    found = evaluated(model, tmp_path, attacks=CHECKED, checks=3)
    checks = {one.name: one.passed for one in found.checks}
    for name in ("steps", "step size", "restarts", "radius", "large radius", "noise", "one step"):
        assert checks[name] is True
    assert checks["zero gradients, margin"]
    for of_classes in ("confidence", "cross entropy", "logit scale, softmax", "logits"):
        assert of_classes not in checks
    assert "steps" not in {one.name for one in evaluated(model, attacks=CHECKED).checks}
    again = evaluated(model, tmp_path, attacks=CHECKED, checks=3)  # made once a folder
    assert again.checks == found.checks


def test_a_model_without_gradients_does_not_pass_for_robust(model):
    def detached(module, args, kwargs):
        return tuple(one.detach() for one in args), kwargs

    handle = model.model.layers[0].register_forward_pre_hook(detached, with_kwargs=True)
    try:
        found = evaluated(model, attacks=CHECKED, checks=3, benign=[])
    finally:
        handle.remove()
    assert found.worst_case.count == 3
    checks = {one.name: one.passed for one in found.checks}
    assert checks["zero gradients, margin"] is False
    assert checks["large radius"] is False


def test_what_attacks_say_of_each_other():
    some = dict.fromkeys(range(20), True)
    none = dict.fromkeys(range(20), False)
    assert check_unbounded(none, 5).passed
    assert check_unbounded(some, 5).passed is None
    assert check_unbounded(some, 100).passed is False
    assert check_words(some, none, 0.4) == []
    assert check_words(some, {}, 1.0) == []
    (masked,), (fine,) = check_words(some, none, 1.0), check_words(none, some, 1.0)
    assert masked.passed is False
    assert fine.passed


def test_attacks_are_compared_with_each_other(model):
    gcg = GCG(3, 1, 4, 4)
    attacks = ChatAttacks(names=("pgd", "soft-suffix", "gcg"), epsilons=(0.1, 1.0), gcg=gcg)
    checks = {one.name: one for one in evaluated(model, attacks=attacks).checks}
    assert checks["soft suffix"].passed is not False
    assert checks["words against embeddings"].passed
    assert "PGD at ε = 1 leaves 0.0 %" in checks["words against embeddings"].finding
