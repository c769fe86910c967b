"""`hyperparameter_search`: Optuna's through the Trainer, and what is left behind."""

import math

import optuna
import pytest
import torch
from models import tiny
from optuna.samplers import BruteForceSampler, GridSampler, RandomSampler
from tiny_training import assert_one_sentence, distance, rows, trained, weights
from tiny_training import build as built
from transformers import TrainingArguments
from transformers.trainer_utils import HPSearchBackend

from nlp_adv import AdversarialTrainer
from nlp_adv.errors import UserError
from nlp_adv.experiments.space import hyperparameters
from nlp_adv.methods import FGM
from nlp_adv.perturbation import L2Ball


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    yield
    optuna.logging.set_verbosity(level)


def model():
    return tiny("bert", dropout=0.1)


def searcher(folder, **given):
    options = {"model_init": model, "eval_dataset": rows(), **given.pop("options", {})}
    return Searcher.made(folder, options, **given)


class Searcher(AdversarialTrainer):
    """Remembers what each trial was trained with."""

    def search(self, space, n_trials=3, *, grid=None, **given):
        if grid is None:
            sampler = RandomSampler(seed=0)
        else:
            sampler = GridSampler(grid) if grid else BruteForceSampler(seed=0)
            n_trials = None
        given = {"sampler": sampler, "backend": "optuna", "n_trials": n_trials} | given
        return self.hyperparameter_search(space, **given)

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
    drawn = []
    trainer.search(lambda trial: drawn.append(space(trial)) or drawn[-1])
    drawn = [one for n, one in enumerate(drawn) if one not in drawn[:n]]
    assert len(trainer.runs) == len(drawn) == 3
    for given, (args, got, _) in zip(drawn, trainer.runs, strict=True):
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
    trainer.search(space, grid={"adv_start_step": [0.5, 0]})
    assert sorted(description["start_step"] for *_, description in trainer.runs) == [0, 2]


def test_the_method_itself_can_be_searched(tmp_path):
    def space(trial):
        values = {"adv": trial.suggest_categorical("adv", ["none", "pgd"])}
        if values["adv"] == "pgd":
            values["adv_steps"] = trial.suggest_int("adv_steps", 1, 2)
        return values

    trainer = searcher(tmp_path, adv="none")
    trainer.search(space, grid={})  # Optuna's sampler of nested spaces
    described = {(one["method"], one.get("steps")) for *_, one in trainer.runs}
    assert described == {("none", None), ("pgd", 1), ("pgd", 2)}
    assert len(trainer.runs) == 3


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
    """But for what a Trainer reads once, when it is made; a sweep makes one for each trial."""
    read_once = {"label_smoothing_factor", "neftune_noise_alpha"}
    varied = {name for name in hyperparameters() if not name.startswith("adv")}
    assert set(SEARCHED) | read_once == varied


@pytest.mark.parametrize("name", SEARCHED)
def test_a_flag_that_a_sweep_varies_is_obeyed_in_each_trial(tmp_path, name):
    """Some flags are read once, when the Trainer is made; varying them would do nothing."""

    def space(trial):
        return {name: trial.suggest_categorical(name, SEARCHED[name])}

    given = {"max_steps": -1} if name == "num_train_epochs" else {"max_steps": 3}
    trainer = searcher(tmp_path, adv="none", **given)
    trainer.search(space, grid={name: SEARCHED[name]})
    assert {args[name] for args, *_ in trainer.runs} == set(SEARCHED[name])
    for args, got, _ in trainer.runs:
        alone = trained(tmp_path, adv="none", model=model(), **given | {name: args[name]})
        assert distance(got, weights(alone)) == 0
    assert distance(trainer.runs[0][1], trainer.runs[1][1]) > 0


def test_a_trial_does_not_inherit_from_the_one_before(tmp_path):
    def space(trial):
        return {"weight_decay": 0.5} if trial.number == 0 else {"max_steps": 1}

    trainer = searcher(tmp_path, adv="none")
    trainer.search(space, 2)
    assert [args["weight_decay"] for args, *_ in trainer.runs] == [0.5, 0.0]
    assert [args["max_steps"] for args, *_ in trainer.runs] == [2, 1]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_best_trial(tmp_path, direction):
    trainer = searcher(tmp_path, adv="none")
    scores = iter([math.nan, 0.3, 0.9, 0.1])
    objective = {"compute_objective": lambda metrics: next(scores)}
    best = trainer.search(rates, 4, direction=direction, **objective)
    number = {"minimize": 3, "maximize": 2}[direction]
    assert best.run_id == str(number)
    assert best.objective == {"minimize": 0.1, "maximize": 0.9}[direction]
    assert best.hyperparameters["learning_rate"] == trainer.runs[number][0]["learning_rate"]


def test_the_objective_is_of_the_trained_model(tmp_path):
    trainer = searcher(tmp_path, adv="none", learning_rate=1e-2)
    seen = []
    trainer.search(rates, compute_objective=lambda m: seen.append(m) or m["eval_loss"])
    assert len(trainer.runs) == len(seen) == 3
    for (_, state, _), metrics in zip(trainer.runs, seen, strict=True):
        fresh = built(tmp_path, adv="none", model=model(), options={"eval_dataset": rows()})
        fresh.model.load_state_dict(state)
        assert fresh.evaluate()["eval_loss"] == metrics["eval_loss"]


def test_checkpoints_lie_apart(tmp_path):
    trainer = searcher(tmp_path, adv="none", save_strategy="steps", save_steps=2)
    trainer.search(rates, 2)
    named = {"hp_name": lambda trial: f"trial{trial.number}"}
    trainer.search(rates, 1, **named)
    found = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("checkpoint-2")}
    assert found == {"run-0", "run-1", "trial0"}


def test_model_init_may_take_the_trial(tmp_path):
    seen = []

    def of_trial(trial=None):
        seen.append(trial and trial.number)
        return model()

    trainer = searcher(tmp_path, adv="none", options={"model_init": of_trial})
    trainer.search(rates, 2)
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

    if breaks:
        with pytest.raises(Broken):
            trainer.search(space, 2, compute_objective=objective)
    else:
        trainer.search(space, 2, compute_objective=objective)
    assert len(trainer.runs) == (1 if breaks else 2)
    assert vars(trainer.args) == before
    assert trainer.hp_search_backend is None
    assert trainer.model_init is model
    assert {name for name in vars(trainer) if name.startswith("hp_")} == attributes
    assert not hasattr(trainer, "compute_objective")
    assert trainer._before_search is None
    trainer.train()  # as if there had been no search
    assert distance(trainer.runs[-1][1], weights(trained(tmp_path, adv="fgm", model=model()))) == 0


def test_a_name_that_is_none(tmp_path):
    trainer = searcher(tmp_path, adv="fgm")
    with pytest.raises(UserError, match="'adv_epsilonn'") as caught:
        trainer.search(lambda trial: {"adv_epsilonn": 1})
    assert_one_sentence(caught.value)
    assert trainer.runs == []


def test_a_trainer_without_model_init(tmp_path):
    with pytest.raises(UserError, match="model_init"):
        built(tmp_path, adv="fgm").hyperparameter_search(rates, backend="optuna")


def test_flags_beside_a_method(tmp_path):
    """They would change nothing."""
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, max_steps=1)
    trainer = AdversarialTrainer(
        model_init=model, args=args, method=FGM(L2Ball(0.1)), train_dataset=rows()
    )
    with pytest.raises(UserError, match="'adv_start_step', which the arguments"):
        trainer.hyperparameter_search(lambda trial: {"adv_start_step": 1}, backend="optuna")
    trainer = searcher(tmp_path, options={"method": FGM(L2Ball(0.1))})
    with pytest.raises(UserError, match="adv_epsilon, which has no effect beside method="):
        trainer.search(lambda trial: {"adv_epsilon": 1.0})


@pytest.mark.slow
def test_the_number_of_trials_is_the_trainers(tmp_path):
    """Twenty where none is named, whatever a subclass of the Trainer passes on."""
    trainer = searcher(tmp_path, adv="none")
    counted = []
    trainer.train = lambda **given: counted.append(given["trial"].number)
    trainer.evaluate = lambda: {"eval_loss": 0.0}
    trainer.hyperparameter_search(rates, backend="optuna")
    assert counted == list(range(20))


def test_the_backends_of_the_version_before(tmp_path):
    trainer = searcher(tmp_path, adv="none")
    with pytest.warns(DeprecationWarning, match="RandomSampler"):
        best = trainer.hyperparameter_search(rates, backend="random", n_trials=2, seed=3)
    assert len(trainer.runs) == 2
    assert best.hyperparameters["learning_rate"] in [
        args["learning_rate"] for args, *_ in trainer.runs
    ]
    with pytest.raises(UserError, match="GridSampler"):
        trainer.hyperparameter_search(rates, backend="grid")


def test_tpe_over_the_numbers_of_a_method(tmp_path):
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
