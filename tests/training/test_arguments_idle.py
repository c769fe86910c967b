"""Flags that would leave ordinary training under a method's name are refused; Python allows them.

The rule is compared with what training does: a setting is refused where its gradient is the clean
one, on every micro-batch of a short run.
"""

from itertools import product

import pytest
import torch
from models import batch, gradients, tiny
from tiny_training import assert_one_sentence, trained

from nlp_adv import AdversarialTrainingArguments, UserError
from nlp_adv.methods import METHODS, NoAttack, build, check_attacks
from nlp_adv.perturbation import Memory
from nlp_adv.sites.objective import text_objective

pytestmark = pytest.mark.fault("T22")

REFUSED = [
    ({"adv": "pgd", "adv_steps": 0}, "steps is 0"),
    ({"adv": "pgd", "adv_steps": 1, "adv_step_size": 0.0}, "step_size is 0"),
    ({"adv": "pgd", "adv_steps": 0, "adv_random_start": True}, "steps is 0"),
    ({"adv": "awp", "adv_steps": 0}, "steps is 0"),
    ({"adv": "awp", "adv_steps": 1, "adv_step_size": 0.0}, "step_size is 0"),
    ({"adv": "awp", "adv_gamma": 0.0}, "gamma is 0"),
    ({"adv": "freelb", "adv_step_size": 0.0, "adv_init_magnitude": 0.0}, "step_size is 0"),
    ({"adv": "freelb", "adv_steps": 1, "adv_init_magnitude": 0.0}, "clean pass"),
    ({"adv": "freeat", "adv_replays": 1}, "clean pass"),
    ({"adv": "freeat", "adv_step_size": 0.0}, "step_size is 0"),
    ({"adv": "fgsm", "adv_step_size": 0.0}, "step_size is 0"),
    ({"adv": "yopo", "adv_rounds": 1}, "clean pass"),
    ({"adv": "yopo", "adv_step_size": 0.0}, "step_size is 0"),
    ({"adv": "tavat", "adv_step_size": 0.0}, "step_size is 0"),
    ({"adv": "vat", "adv_beta": 0.0}, "beta is 0"),
    ({"adv": "vat", "adv_xi": 0.0}, "xi must be > 0"),
    ({"adv": "trades", "adv_beta": 0.0}, "beta is 0"),
    ({"adv": "trades", "adv_step_size": 0.0}, "step_size is 0"),
    ({"adv": "smart", "adv_beta": 0.0}, "beta and proximal_weight are 0"),
    ({"adv": "rdrop", "adv_beta": 0.0}, "beta is 0"),
    ({"adv": "sam", "adv_rho": 0.0}, "rho is 0"),
    ({"adv": "rr", "adv_away_weight": 0.0}, "away_weight is 0"),
    ({"adv": "cat", "adv_away_weight": 0.0, "adv_toward_weight": 0.0}, "nothing is trained at δ"),
    ({"adv": "cat", "adv_step_size": 0.0}, "step_size is 0"),
    ({"adv": "capo", "adv_beta": 0.0}, "beta must be a finite number > 0"),
    ({"adv": "lat", "adv_steps": 0}, "steps must be an integer"),
]
REFUSED += [
    ({"adv": name, "adv_epsilon": zero}, "epsilon is 0")
    for name in METHODS
    if name not in ("none", "rdrop", "sam", "rr")
    for zero in (0.0, -0.0)
]
NUMBERS = [
    ("pgd", "step_size"),
    ("freelb", "init_magnitude"),
    ("freelb", "clean_weight"),
    ("fgm", "epsilon"),
    ("fgm_matrix", "epsilon"),
    ("vat", "xi"),
    ("vat", "beta"),
    ("smart", "decay"),
    ("smart", "proximal_weight"),
    ("awp", "gamma"),
    ("sam", "rho"),
    ("cat", "refusal_weight"),
    ("cat", "toward_cutoff"),
    ("lat", "away_cutoff"),
    ("capo", "utility_weight"),
    ("rr", "away_weight"),
    ("fgm", "start_step"),
    ("fgm", "ramp_steps"),
]
REFUSED += [
    ({"adv": name, f"adv_{key}": value}, key)
    for name, key in NUMBERS
    for value in (float("nan"), float("inf"), -0.5)
]


@pytest.mark.parametrize(
    ("flags", "fragment"), REFUSED, ids=[" ".join(map(str, f.values())) for f, _ in REFUSED]
)
def test_the_flags_are_refused_in_one_sentence(flags, fragment):
    with pytest.raises(UserError) as caught:
        AdversarialTrainingArguments(output_dir="out", use_cpu=True, **flags)
    assert_one_sentence(caught.value)
    assert fragment in str(caught.value)
    assert f"--adv {flags['adv']}" in str(caught.value)


GRIDS = {
    "noise": {},
    "fgsm": {"step_size": (0.0, 0.2), "random_start": (False, True)},
    "fgm": {},
    "fgm_matrix": {},
    "pgd": {"steps": (0, 2), "step_size": (0.0, 0.2), "random_start": (False, True)},
    "freelb": {
        "steps": (1, 2),
        "step_size": (0.0, 0.2),
        "init_magnitude": (0.0, 0.3),
        "reuse": (False, True),
    },
    "freeat": {"replays": (1, 2), "step_size": (0.0, 0.2), "carry": (False, True)},
    "yopo": {
        "rounds": (1, 2),
        "steps": (1, 2),
        "step_size": (0.0, 0.2),
        "random_start": (False, True),
    },
    "tavat": {"steps": (1, 2), "step_size": (0.0, 0.2), "init_magnitude": (0.0, 0.3)},
    "vat": {"beta": (0.0, 1.0)},
    "trades": {"beta": (0.0, 1.0), "step_size": (0.0, 0.2)},
    "smart": {"beta": (0.0, 1.0), "proximal_weight": (0.0, 1.0), "step_size": (0.0, 0.2)},
    "rdrop": {"beta": (0.0, 1.0)},
    "awp": {"steps": (0, 1), "step_size": (0.0, 0.2), "gamma": (0.0, 0.01)},
}
# Refused although not ordinary training: what the method is named after does not happen.
OTHERWISE = {
    "fgsm": "step_size",
    "pgd": "steps step_size",
    "freelb": "step_size",
    "yopo": "step_size",
    "tavat": "step_size",
    "trades": "step_size",
    "smart": "step_size",
    "rdrop": "beta",
    "awp": "steps step_size gamma",
}


def cases():
    """All settings at an ε, and the last ones, nowhere 0, at ε = 0."""
    for name, grid in GRIDS.items():
        epsilon = None if name == "rdrop" else 0.8
        settings = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
        yield from ((name, epsilon, one) for one in settings)
        if epsilon is not None:
            yield name, 0.0, settings[-1]


def is_ordinary(method) -> bool:
    """Whether every step of a run of SGD has the clean gradient; the batch comes twice."""
    memory, replays = Memory(), getattr(method, "replays", 1)
    model = tiny("bert", dropout=0.1 if method.name == "rdrop" else 0.0)
    twin = tiny("bert", dropout=0.1 if method.name == "rdrop" else 0.0)
    for step in range(2):
        for replay in range(replays):
            memory.replay = replay
            found = []
            for which, with_method in ((model, method), (twin, NoAttack())):
                torch.manual_seed(step)
                objective = text_objective(which, batch("bert"), seed=step, memory=memory)
                which.zero_grad()
                with_method.step(objective)
                found.append(gradients(which))
                with torch.no_grad():
                    for parameter in which.parameters():
                        if parameter.grad is not None:
                            parameter -= 0.1 * parameter.grad
            off = max(float((found[0][k] - found[1][k]).abs().max()) for k in found[0])
            if not off < 1e-12:
                return False
    return True


@pytest.mark.parametrize(
    ("name", "epsilon", "settings"),
    list(cases()),
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_what_is_refused_is_what_trains_without_an_attack(name, epsilon, settings):
    ball = {} if epsilon is None else {"epsilon": epsilon}
    if hasattr(METHODS[name], "ball") or "ball" in METHODS[name].__dataclass_fields__:
        ball["unit"] = "absolute"
    try:
        check_attacks(build(name, **ball, **settings))
        refused = False
    except ValueError:
        refused = True
    ordinary = is_ordinary(build(name, **ball, **settings))
    if ordinary or not refused:
        assert refused == ordinary
    else:  # not ordinary, and refused all the same
        assert epsilon == 0 or any(settings[key] == 0 for key in OTHERWISE[name].split())


def test_python_trains_without_an_attack_where_it_is_asked_to(tmp_path):
    method = build("pgd", epsilon=0.0, steps=0, unit="absolute")
    assert trained(tmp_path, options={"method": method}).state.global_step == 2
