"""`--space`: how its words are read, and what is varied without it."""

import pytest
from transformers import TrainingArguments

from nlp_adv import AdversarialTrainingArguments
from nlp_adv.errors import UserError
from nlp_adv.experiments.plan import planned
from nlp_adv.experiments.space import (
    Hyperparameter,
    default_space,
    hyperparameters,
    parse_space,
)

READ = {
    "adv_epsilon=0.01:0.1": Hyperparameter("adv_epsilon", low=0.01, high=0.1, log=True),
    "adv_epsilon=0.01:0.1:linear": Hyperparameter("adv_epsilon", low=0.01, high=0.1),
    "adv_step_size=1:2": Hyperparameter("adv_step_size", low=1.0, high=2.0, log=True),
    "learning_rate=1e-5:1e-4": Hyperparameter("learning_rate", low=1e-5, high=1e-4, log=True),
    "weight_decay=0:0.1": Hyperparameter("weight_decay", low=0.0, high=0.1),
    "weight_decay=1e-4:0.1:log": Hyperparameter("weight_decay", low=1e-4, high=0.1, log=True),
    "adv_steps=1:5": Hyperparameter("adv_steps", low=1, high=5, whole=True),
    "max_steps=10:1000:log": Hyperparameter("max_steps", low=10, high=1000, log=True, whole=True),
    "adv_steps=2,3": Hyperparameter("adv_steps", (2, 3)),
    "adv_steps=3,3": Hyperparameter("adv_steps", (3,)),
    "adv_epsilon=0.1,inf": Hyperparameter("adv_epsilon", (0.1, float("inf")), log=True),
    "adv_epsilon=0,1": Hyperparameter("adv_epsilon", (0.0, 1.0)),
    "adv_start_step=0,0.2": Hyperparameter("adv_start_step", (0.0, 0.2)),
    "adv_random_start=true,False": Hyperparameter("adv_random_start", (True, False)),
    "adv=fgm,freelb": Hyperparameter("adv", ("fgm", "freelb")),
    "--adv_norm=l2,linf": Hyperparameter("adv_norm", ("l2", "linf")),
    "lr_scheduler_type=linear": Hyperparameter("lr_scheduler_type", ("linear",)),
}


@pytest.mark.parametrize("text", READ)
def test_words_are_read(text):
    (one,) = parse_space([text])
    assert one == READ[text]
    kinds = [type(value) for value in one.ends]
    assert kinds == [type(value) for value in READ[text].ends]
    assert parse_space([str(one)]) == [one]  # as it is written down


WRONG = {
    "adv_steps=1.5,2": "'1.5' is no whole number",
    "adv_steps=1:2.5": "'2.5' is no whole number",
    "adv_epsilon=a,b": "'a' is no number",
    "adv_epsilon=nan,1": "'nan' is no value",
    "adv_epsilon=0.1:inf": "finite",
    "adv_epsilon=0.1:nan": "'nan'",
    "adv_epsilon=:1": "'' is no number",
    "adv_epsilon=0.1,": "'' is no number",
    "adv_epsilon=1:2:3:log": "low:high",
    "adv_epsilon=1:2:lin": "low:high:log",
    "adv_epsilon=1:1": "begin below its end",
    "weight_decay=0:1:log": "above 0",
    "adv_random_start=yes,no": "neither true nor false",
    "adv_random_start=0:1": "words are a,b,c",
    "adv_norm=l2:linf": "words are a,b,c",
    "adv=fgm,": "no value",
    "=1,2": "'' is nothing",
    "adv_steps=": "name=low:high",
    "adv_step=1,2": "did you mean adv_steps?",
    "adv_seed=1,2": "nothing that a sweep can vary",
    "seed=1,2": "nothing that a sweep can vary",
    "output_dir=a,b": "nothing that a sweep can vary",
}


@pytest.mark.parametrize("text", WRONG)
def test_words_that_are_refused(text):
    with pytest.raises(UserError) as caught:
        parse_space([text])
    assert str(caught.value).startswith(f"--space {text}: ")
    assert WRONG[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_can_be_varied_are_flags():
    known = hyperparameters()
    fields = AdversarialTrainingArguments.__dataclass_fields__
    assert set(known) <= set(fields)
    assert {"adv", "adv_epsilon", "adv_steps", "learning_rate"} <= set(known)
    # What belongs to a run rather than to how a model is trained.
    not_varied = {"seed", "output_dir", "logging_steps", "save_steps", "bf16"}
    assert not not_varied & set(known)
    assert not_varied <= set(TrainingArguments.__dataclass_fields__)
    assert known["adv_random_start"] is bool
    assert known["adv_steps"] is int
    assert known["adv_epsilon"] is float
    assert known["adv_norm"] is str


def test_a_trial_is_asked_as_optuna_is():
    asked = []

    class Trial:
        def suggest_float(self, name, low, high, *, log):
            asked.append((name, low, high, log))

        def suggest_int(self, name, low, high, *, log):
            asked.append((name, low, high, log))

        def suggest_categorical(self, name, values):
            asked.append((name, values))

    for one in parse_space(["adv_epsilon=0.01:0.1", "adv_steps=1:5", "adv=fgm,pgd"]):
        one.suggest(Trial())
    assert asked == [
        ("adv_epsilon", 0.01, 0.1, True),
        ("adv_steps", 1, 5, False),
        ("adv", ("fgm", "pgd")),
    ]


def test_a_grid_of_words():
    space = parse_space(["adv_epsilon=0.01:1", "adv_steps=2,3"])
    plan = planned("grid", space, n_trials=None, seed=0)
    got = sorted(tuple(params[one.name] for one in space) for params in plan)
    assert got == [(pytest.approx(e), k) for e in (0.01, 0.1, 1) for k in (2, 3)]


def arguments(folder, **flags) -> AdversarialTrainingArguments:
    return AdversarialTrainingArguments(output_dir=str(folder), report_to="none", **flags)


@pytest.mark.parametrize(
    ("flags", "given", "demo", "want"),
    [
        (
            {"adv": "fgm"},
            set(),
            False,
            ["adv_epsilon=0.01:0.09:log", "learning_rate=1e-05:0.0001:log"],
        ),
        ({"adv": "none"}, set(), False, ["learning_rate=1e-05:0.0001:log"]),
        ({"adv": "rdrop"}, set(), False, ["learning_rate=1e-05:0.0001:log"]),
        (
            {"adv": "fgm", "adv_epsilon": 0.3},
            {"adv_epsilon"},
            False,
            ["learning_rate=1e-05:0.0001:log"],
        ),
        (
            {"adv": "fgm", "learning_rate": 1.0},
            {"learning_rate"},
            False,
            ["adv_epsilon=0.01:0.09:log"],
        ),
        (
            {"adv": "pgd", "adv_epsilon": 0.6, "learning_rate": 3e-3},
            set(),
            True,
            ["adv_epsilon=0.2:1.8:log", "learning_rate=0.001:0.009:log"],
        ),
    ],
)
def test_the_default_space(tmp_path, flags, given, demo, want):
    space = default_space(arguments(tmp_path, **flags), given, demo=demo)
    assert [str(one) for one in space] == want


def test_no_default_is_left(tmp_path):
    with pytest.raises(UserError, match="--space"):
        default_space(arguments(tmp_path, adv="none"), {"learning_rate"}, demo=False)
    if_no_ball = arguments(tmp_path, adv="pgd", adv_epsilon=float("inf"), adv_step_size=0.1)
    space = default_space(if_no_ball, set(), demo=False)
    assert [one.name for one in space] == ["learning_rate"]
