"""Grid and random search: which values, how a trial is trained, and what is left behind."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from models import tiny
from scipy.stats import kstest
from tiny_training import assert_one_sentence, distance, rows, trained, weights
from tiny_training import build as built
from transformers import TrainingArguments
from transformers.trainer_utils import HPSearchBackend

from nlp_adv import AdversarialTrainer
from nlp_adv.cli.sweep_space import hyperparameters
from nlp_adv.errors import UserError
from nlp_adv.methods import FGM
from nlp_adv.perturbation import L2Ball
from nlp_adv.training.trials import Choices, Interval, RandomTrial, planned


def params(backend, hp_space, **given):
    return [trial.params for trial in planned(backend, hp_space, **given)]


# Which values.


def lengths(trial):
    return {
        "log": trial.suggest_float("log", 1e-5, 1e-2, log=True),
        "linear": trial.suggest_float("linear", -2.0, 6.0),
        "whole": trial.suggest_int("whole", 1, 4),
        "word": trial.suggest_categorical("word", ["a", "b", "c"]),
    }


def test_draws_follow_their_laws():
    """Kolmogorov–Smirnov at one in a thousand; the wrong scale is far beyond it."""
    drawn = params("random", lengths, n_trials=2000)
    logs = np.log10([one["log"] for one in drawn])
    assert kstest((logs + 5) / 3, "uniform").pvalue > 1e-3
    linear = np.array([one["linear"] for one in drawn])
    assert kstest((linear + 2) / 8, "uniform").pvalue > 1e-3
    for name, values in {"whole": [1, 2, 3, 4], "word": ["a", "b", "c"]}.items():
        shares = [sum(one[name] == value for one in drawn) / 2000 for value in values]
        assert sum(shares) == 1
        assert shares == pytest.approx([1 / len(values)] * len(values), abs=0.04)
    assert all(type(one["whole"]) is int for one in drawn)
    assert abs(np.corrcoef(logs, linear)[0, 1]) < 0.1  # each name has draws of its own


def test_whole_numbers_on_a_logarithmic_scale():
    drawn = params("random", lambda t: t.suggest_int("n", 1, 64, log=True), n_trials=2000)
    values = [one["n"] for one in drawn]
    assert set(values) <= set(range(1, 65))
    for n in (1, 2, 8):
        want = math.log((n + 0.5) / (n - 0.5)) / math.log(64.5 / 0.5)
        assert values.count(n) / 2000 == pytest.approx(want, abs=0.03)


def test_a_trial_is_its_seed_and_number():
    long, short = (params("random", lengths, n_trials=n, seed=3) for n in (9, 4))
    assert long[:4] == short
    assert len({one["log"] for one in long}) == 9
    assert params("random", lengths, n_trials=4, seed=4)[0] != short[0]
    assert len(params("random", lengths)) == 20

    def fewer(trial):
        return {"linear": trial.suggest_float("linear", -2.0, 6.0)}

    assert [one["linear"] for one in params("random", fewer, n_trials=4, seed=3)] == [
        one["linear"] for one in short
    ]


def test_a_name_asked_for_twice_has_one_value():
    trial = RandomTrial(0, seed=0)
    assert trial.suggest_float("x", 0, 1) == trial.suggest_float("x", 0, 1)
    assert list(trial.params) == ["x"]


def test_the_grid_is_the_product():
    def space(trial):
        trial.suggest_categorical("word", ["a", "b"])
        trial.suggest_int("whole", 2, 3)
        trial.suggest_float("log", 0.01, 1, log=True)

    got = [tuple(one.values()) for one in params("grid", space)]
    want = list(product(["a", "b"], [2, 3], [0.01, 0.1, 1]))
    assert [one[:2] for one in got] == [one[:2] for one in want]
    assert [one[2] for one in got] == pytest.approx([one[2] for one in want])
    assert [trial.number for trial in planned("grid", space)] == list(range(12))


def test_a_grid_asks_only_what_applies():
    def space(trial):
        if trial.suggest_categorical("adv", ["fgm", "pgd"]) == "pgd":
            trial.suggest_int("steps", 1, 3)

    assert params("grid", space) == [{"adv": "fgm"}] + [
        {"adv": "pgd", "steps": steps} for steps in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("interval", "points", "want"),
    [
        (Interval(1e-5, 1e-1, log=True), 5, [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
        (Interval(0, 1), 3, [0, 0.5, 1]),
        (Interval(2, 2), 3, [2]),
        (Interval(1, 10, step=1), 4, [1, 4, 7, 10]),
        (Interval(1, 2, step=1), 4, [1, 2]),
        (Interval(0, 10, step=4), 9, [0, 4, 8]),
        (Interval(1, 64, log=True, step=1), 4, [1, 4, 16, 64]),
        (Interval(0.0, 1.0, step=0.25), 3, [0, 0.5, 1]),
    ],
)
def test_the_points_of_a_range(interval, points, want):
    got = interval.spread(points)
    assert got == pytest.approx(want)
    assert got[0] == interval.low
    assert all(interval.low <= interval.at(share) <= interval.high for share in (0, 0.5, 1 - 1e-16))


def test_steps_are_kept_by_draws():
    interval = Interval(0.5, 2.4, step=0.5)
    assert {interval.at(share / 100) for share in range(100)} == {0.5, 1.0, 1.5, 2.0}
    assert {Choices((7, 8)).at(share) for share in (0, 0.49, 0.51, 1 - 1e-16)} == {7, 8}


BAD_SPACES = {
    "backwards": lambda t: t.suggest_float("x", 2, 1),
    "infinite": lambda t: t.suggest_float("x", 1, math.inf),
    "not a number": lambda t: t.suggest_float("x", math.nan, 1),
    "logarithm of nothing": lambda t: t.suggest_float("x", 0, 1, log=True),
    "logarithm with steps": lambda t: t.suggest_float("x", 1, 2, log=True, step=0.5),
    "no step": lambda t: t.suggest_int("x", 1, 2, step=0),
    "no choice": lambda t: t.suggest_categorical("x", []),
}


@pytest.mark.parametrize("backend", ["grid", "random"])
@pytest.mark.parametrize("case", BAD_SPACES)
def test_a_space_that_is_none(case, backend):
    with pytest.raises(UserError) as caught:
        planned(backend, BAD_SPACES[case])
    assert_one_sentence(caught.value)


def test_a_grid_larger_than_asked_for():
    def space(trial):
        trial.suggest_int("x", 1, 3)

    assert len(planned("grid", space, n_trials=3)) == 3
    with pytest.raises(UserError, match="more than 2 trials"):
        planned("grid", space, n_trials=2)
    with pytest.raises(UserError, match="more than 10000"):  # and not an endless loop
        planned("grid", lambda t: [t.suggest_int(str(i), 1, 9) for i in range(9)], points=9)
    for wrong in ({"n_trials": 0}, {"points": 1}):
        with pytest.raises(UserError):
            planned("grid", space, **wrong)


# Through the Trainer.


def model():
    return tiny("bert", dropout=0.1)


def searcher(folder, **given):
    options = {"model_init": model, "eval_dataset": rows(), **given.pop("options", {})}
    return Searcher.made(folder, options, **given)


class Searcher(AdversarialTrainer):
    """Remembers what each trial was trained with."""

    @classmethod
    def made(cls, folder, options, **flags):
        trainer = built(
            folder, lambda model, **rest: cls(**rest), model=model(), options=options, **flags
        )
        trainer.runs = []
        return trainer

    def train(self, *args, **kwargs):
        output = super().train(*args, **kwargs)
        described = self._description()
        self.runs.append((vars(self.args).copy(), weights(self), described))
        return output


def rates(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)}


@pytest.mark.parametrize("adv", ["none", "freelb"])
def test_a_trial_is_the_run_with_its_arguments(tmp_path, adv):
    """Bit for bit, also the third, whose seed and warm-up differ."""

    def space(trial):
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
            "seed": trial.number + 5,
            "warmup_steps": 0.5 * trial.number,
            "gradient_accumulation_steps": 1 + trial.number,
            "per_device_train_batch_size": 2,
        }

    trainer = searcher(tmp_path, adv=adv, options={"model_init": seeded})
    trainer.hyperparameter_search(space, backend="random", n_trials=3)
    assert len(trainer.runs) == 3
    for number, (args, got, _) in enumerate(trainer.runs):
        given = space(planned("random", space, n_trials=3)[number])
        assert {name: args[name] for name in given} == given
        torch.manual_seed(given["seed"])
        alone = trained(tmp_path, adv=adv, model=seeded(), **given)
        assert distance(got, weights(alone)) == 0


def seeded():
    """A model whose head depends on the seed; then the random state in which training begins."""
    made = model()
    seed = torch.initial_seed()
    torch.nn.init.normal_(made.classifier.weight)
    torch.manual_seed(seed)
    return made


def test_arguments_that_are_whole_by_default_keep_their_fractions(tmp_path):
    """The Trainer casts to the type of the old value, and the default of this float is 0."""

    def space(trial):
        return {"adv_start_step": trial.suggest_categorical("adv_start_step", [0.5, 0])}

    trainer = searcher(tmp_path, adv="fgm", max_steps=4)
    trainer.hyperparameter_search(space, backend="grid")
    assert [description["start_step"] for *_, description in trainer.runs] == [2, 0]


def test_the_method_itself_can_be_searched(tmp_path):
    def space(trial):
        values = {"adv": trial.suggest_categorical("adv", ["none", "pgd"])}
        if values["adv"] == "pgd":
            values["adv_steps"] = trial.suggest_int("adv_steps", 1, 2)
        return values

    trainer = searcher(tmp_path, adv="none")
    trainer.hyperparameter_search(space, backend="grid")
    described = [(one["method"], one.get("steps")) for *_, one in trainer.runs]
    assert described == [("none", None), ("pgd", 1), ("pgd", 2)]


SEARCHED = {
    "learning_rate": (1e-3, 2e-3),
    "weight_decay": (0.0, 0.5),
    "num_train_epochs": (1.0, 2.0),
    "max_steps": (2, 4),
    "per_device_train_batch_size": (2, 4),
    "gradient_accumulation_steps": (1, 2),
    "lr_scheduler_type": ("linear", "cosine"),
    "warmup_steps": (0.0, 0.5),
    "max_grad_norm": (0.01, 1.0),
    "optim": ("adamw_torch", "sgd"),
    "adam_beta1": (0.5, 0.9),
    "adam_beta2": (0.5, 0.9),
    "adam_epsilon": (1e-8, 0.1),
}


def test_the_flags_that_a_sweep_varies_are_listed():
    assert set(SEARCHED) == {name for name in hyperparameters() if not name.startswith("adv")}


@pytest.mark.parametrize("name", SEARCHED)
def test_a_flag_that_a_sweep_varies_is_obeyed_in_each_trial(tmp_path, name):
    """Some flags are read once, when the Trainer is made; varying them would do nothing."""

    def space(trial):
        return {name: trial.suggest_categorical(name, SEARCHED[name])}

    given = {"max_steps": -1} if name == "num_train_epochs" else {"max_steps": 3}
    trainer = searcher(tmp_path, adv="none", **given)
    trainer.hyperparameter_search(space, backend="grid")
    for value, (_, got, _) in zip(SEARCHED[name], trainer.runs, strict=True):
        alone = trained(tmp_path, adv="none", model=model(), **given | {name: value})
        assert distance(got, weights(alone)) == 0
    assert distance(trainer.runs[0][1], trainer.runs[1][1]) > 0


def test_a_trial_does_not_inherit_from_the_one_before(tmp_path):
    def space(trial):
        return {"weight_decay": 0.5} if trial.number == 0 else {"max_steps": 1}

    trainer = searcher(tmp_path, adv="none")
    trainer.hyperparameter_search(space, backend="random", n_trials=2)
    assert [args["weight_decay"] for args, *_ in trainer.runs] == [0.5, 0.0]
    assert [args["max_steps"] for args, *_ in trainer.runs] == [2, 1]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_best_trial(tmp_path, direction):
    trainer = searcher(tmp_path, adv="none")
    scores = iter([math.nan, 0.3, 0.9, 0.1])
    best = trainer.hyperparameter_search(
        rates,
        backend="random",
        n_trials=4,
        direction=direction,
        compute_objective=lambda metrics: next(scores),
    )
    number = {"minimize": 3, "maximize": 2}[direction]
    assert best.run_id == str(number)
    assert best.objective == {"minimize": 0.1, "maximize": 0.9}[direction]
    assert best.hyperparameters == params("random", rates, n_trials=4)[number]


def test_the_objective_is_of_the_trained_model(tmp_path):
    trainer = searcher(tmp_path, adv="none", learning_rate=1e-2)
    seen = []
    trainer.hyperparameter_search(
        rates,
        backend="grid",
        n_trials=3,
        compute_objective=lambda m: seen.append(m) or m["eval_loss"],
    )
    assert len(trainer.runs) == len(seen) == 3
    for (_, state, _), metrics in zip(trainer.runs, seen, strict=True):
        fresh = built(tmp_path, adv="none", model=model(), options={"eval_dataset": rows()})
        fresh.model.load_state_dict(state)
        assert fresh.evaluate()["eval_loss"] == metrics["eval_loss"]


def test_finished_trials_are_not_run_again(tmp_path):
    whole, rest = (searcher(tmp_path / name, adv="none") for name in ("whole", "rest"))
    losses = []
    want = whole.hyperparameter_search(
        rates,
        backend="random",
        n_trials=4,
        seed=1,
        compute_objective=lambda m: losses.append(m["eval_loss"]) or losses[-1],
    )
    got = rest.hyperparameter_search(
        rates, backend="random", n_trials=4, seed=1, finished={0: losses[0], 2: losses[2]}
    )
    assert got == want
    assert [args["learning_rate"] for args, *_ in rest.runs] == [
        whole.runs[number][0]["learning_rate"] for number in (1, 3)
    ]


def test_checkpoints_lie_apart(tmp_path):
    trainer = searcher(tmp_path, adv="none", save_strategy="steps", save_steps=2)
    trainer.hyperparameter_search(rates, backend="random", n_trials=2)
    named = {"hp_name": lambda trial: f"trial{trial.number}"}
    trainer.hyperparameter_search(rates, backend="random", n_trials=1, **named)
    found = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("checkpoint-2")}
    assert found == {"run-0", "run-1", "trial0"}


def test_model_init_may_take_the_trial(tmp_path):
    seen = []

    def of_trial(trial=None):
        seen.append(trial and trial.number)
        return model()

    trainer = searcher(tmp_path, adv="none", options={"model_init": of_trial})
    trainer.hyperparameter_search(rates, backend="random", n_trials=2)
    assert seen == [None, 0, 1]
    assert trainer.model_init is of_trial


class Broken(Exception):
    pass


@pytest.mark.parametrize("breaks", [False, True])
def test_everything_is_as_before(tmp_path, breaks):
    trainer = searcher(tmp_path, adv="fgm", gradient_accumulation_steps=1)
    before = vars(trainer.args).copy()
    attributes = {name for name in vars(trainer) if name.startswith("hp_")}

    def space(trial):
        return {
            "adv_epsilon": trial.suggest_float("adv_epsilon", 0.1, 0.2),
            "gradient_accumulation_steps": 3,
            "per_device_train_batch_size": 2,
        }

    def objective(metrics):
        assert trainer.hp_search_backend == HPSearchBackend.OPTUNA
        assert trainer.args.adv_epsilon is not None
        if breaks:
            raise Broken
        return 0.0

    run = {"backend": "random", "n_trials": 2, "compute_objective": objective}
    if breaks:
        with pytest.raises(Broken):
            trainer.hyperparameter_search(space, **run)
    else:
        trainer.hyperparameter_search(space, **run)
    assert len(trainer.runs) == (1 if breaks else 2)
    assert vars(trainer.args) == before
    assert trainer.hp_search_backend is None
    assert trainer.model_init is model
    assert {name for name in vars(trainer) if name.startswith("hp_")} == attributes
    assert not hasattr(trainer, "compute_objective")
    trainer.train()  # as if there had been no search
    assert distance(trainer.runs[-1][1], weights(trained(tmp_path, adv="fgm", model=model()))) == 0


REFUSED = {
    "two directions": ({"direction": ["minimize", "maximize"]}, "one direction"),
    "no space": ({"hp_space": None}, "hp_space"),
    "a name that is none": ({"hp_space": lambda trial: {"adv_epsilonn": 1}}, "'adv_epsilonn'"),
    "no trials": ({"n_trials": 0}, "at least one"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_searched(tmp_path, case):
    given, words = REFUSED[case]
    trainer = searcher(tmp_path, adv="fgm")
    with pytest.raises(UserError, match=words) as caught:
        trainer.hyperparameter_search(**{"hp_space": rates, "backend": "random"} | given)
    assert_one_sentence(caught.value)
    assert trainer.runs == []


def test_a_trainer_without_model_init(tmp_path):
    with pytest.raises(UserError, match="model_init"):
        built(tmp_path, adv="fgm").hyperparameter_search(rates, backend="grid")


def test_flags_beside_a_method(tmp_path):
    """They would change nothing."""
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, max_steps=1)
    trainer = AdversarialTrainer(
        model_init=model, args=args, method=FGM(L2Ball(0.1)), train_dataset=rows()
    )
    with pytest.raises(UserError, match="'adv_start_step', which the arguments"):
        trainer.hyperparameter_search(lambda trial: {"adv_start_step": 1}, backend="random")
    trainer = searcher(tmp_path, options={"method": FGM(L2Ball(0.1))})
    with pytest.raises(UserError, match="adv_epsilon, which has no effect beside method="):
        trainer.hyperparameter_search(lambda trial: {"adv_epsilon": 1.0}, backend="random")


def test_other_backends_are_the_trainers(tmp_path, monkeypatch):
    seen = {}

    def stock(self, *args, **kwargs):
        names = ("hp_space", "compute_objective", "n_trials", "direction", "backend", "hp_name")
        seen.update(zip(names, args, strict=True), **kwargs)

    monkeypatch.setattr("transformers.Trainer.hyperparameter_search", stock)
    trainer = searcher(tmp_path, adv="none")
    trainer.hyperparameter_search(rates, backend="optuna", n_trials=7, storage="s")
    assert seen["backend"] == "optuna"
    assert seen["n_trials"] == 7
    assert seen["storage"] == "s"
    assert seen["hp_space"] is rates
    trainer.hyperparameter_search()
    assert seen["n_trials"] == 20


def test_one_space_serves_optuna(tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def space(trial):
        return {
            "adv_epsilon": trial.suggest_float("adv_epsilon", 0.01, 0.1, log=True),
            "adv_steps": trial.suggest_int("adv_steps", 1, 2),
            "adv_start_step": trial.suggest_categorical("adv_start_step", [0.5, 0.6]),
        }

    trainer = searcher(tmp_path, adv="pgd", max_steps=4)
    best = trainer.hyperparameter_search(space, backend="optuna", n_trials=2)
    assert set(best.hyperparameters) == {"adv_epsilon", "adv_steps", "adv_start_step"}
    assert [one["start_step"] for *_, one in trainer.runs] == [2, 2]  # and not int(0.5)
