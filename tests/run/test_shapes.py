"""A script under `nlp-adv run` trains as the same script with the mixin written in, to the bit."""

import runpy
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from shapes import SHAPES, by_hand, script
from training.tiny_training import distance, weights
from transformers import Trainer

from nlp_adv import UserError
from nlp_adv.run.arguments import RunArguments
from nlp_adv.run.notes import Orders
from nlp_adv.run.patch import patch

METHOD = {"adv": "freelb", "adv_steps": 2, "adv_epsilon": 0.3}
LOGGED = ("loss", "adv_loss", "delta_norm", "grad_norm")
FLAGS = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}


def words(flags: dict) -> list[str]:
    return [word for key, value in flags.items() for word in (f"--{key}", str(value))]


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Runs a script's text in this process, and returns what it left: its names, the orders."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def run(text: str, *argv: str, method: dict | None = None) -> tuple[dict, Orders]:
        path = tmp_path / "script.py"
        path.write_text(text, encoding="utf-8")
        orders = Orders(asdict(RunArguments(**(method or {}))), str(tmp_path))
        for notes in tmp_path.glob("*.jsonl"):
            notes.unlink()
        with monkeypatch.context() as patched:
            flags = ["--output_dir", str(tmp_path / "out"), *words(FLAGS), *argv]
            patched.setattr(sys, "argv", [str(path), *flags])
            patched.setattr(Trainer, "__init__", Trainer.__init__)
            if method is not None:
                patch(Trainer, orders)
            return runpy.run_path(str(path), run_name="__main__"), orders

    return run


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] * (one == "sft")) for one in SHAPES]
)
def test_it_trains_as_with_the_mixin_written_in(name, ran, capsys):
    if name == "sft":  # trl takes its time to import
        pytest.importorskip("trl")
    own = SHAPES[name].flags
    text = script(name)
    outside, orders = ran(text, *own, method=METHOD)
    trainer = outside["trainer"]
    said = [line for line in capsys.readouterr().err.splitlines() if "nlp-adv run" in line]
    assert len(said) == 1
    class_name = SHAPES[name].trainer.rpartition(".")[2]
    assert said[0].startswith(f"nlp-adv run: {class_name} trains with --adv freelb (")
    assert [note[:2] for note in orders.notes()] == [("built", class_name), ("began", class_name)]
    assert type(trainer).__name__ == class_name

    inside, _ = ran(by_hand(text), *own, *words(METHOD))
    assert distance(weights(trainer), weights(inside["trainer"])) == 0
    logs = [
        [{key: entry[key] for key in LOGGED} for entry in one.state.log_history if "loss" in entry]
        for one in (trainer, inside["trainer"])
    ]
    assert len(logs[0]) == 3
    assert logs[0] == logs[1]
    assert all(entry["delta_norm"] > 0 for entry in logs[0])
    assert trainer.state.total_flos == inside["trainer"].state.total_flos


def test_none_is_the_script_alone(ran):
    text = script("glue")
    outside, _ = ran(text, method={"adv": "none"})
    plain, _ = ran(text)
    assert distance(weights(outside["trainer"]), weights(plain["trainer"])) == 0


def test_other_scripts_do_not_notice(ran):
    """What a script may look at: the class by name, its attributes, the signature, the pickle."""
    text = """
import inspect, pickle
from transformers import Trainer, TrainingArguments
import shapes as parts
assert "train_dataset" in inspect.signature(Trainer.__init__).parameters
assert "train_dataset" in inspect.signature(Trainer).parameters
args = TrainingArguments("nowhere", use_cpu=True, report_to="none")
class Mine(Trainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.method = "mine"
trainer = Mine(model=parts.model("glue"), args=args)
assert isinstance(trainer, Mine) and type(trainer).__name__ == "Mine"
assert (type(trainer).__module__, type(trainer).__qualname__) == ("__main__", "Mine")
assert trainer.method == "mine"
assert "adv" not in args.to_dict()
again = pickle.loads(pickle.dumps(args))
assert (again.adv, type(again)) == ("freelb", TrainingArguments)
assert type(Mine(model=parts.model("glue"), args=args)) is type(trainer)
names = [type(one).__name__ for one in trainer.callback_handler.callbacks]
"""
    outside, _ = ran(text, method=METHOD)
    plain, _ = ran(text.replace("assert (again.adv, ", "assert ('freelb', "))
    assert outside["names"] == plain["names"]


TWO = """
from transformers import Trainer, TrainingArguments
import shapes as parts
class Teacher(Trainer): pass
class Student(Trainer): pass
class Youngest(Student): pass
def train(kind):
    flags = dict(max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True)
    args = TrainingArguments("nowhere", save_strategy="no", **flags)
    kind(model=parts.model("glue"), args=args, train_dataset=parts.data("glue")).train()
for kind in (Teacher, Student, Youngest):
    train(kind)
"""


def test_all_trainers_or_those_of_one_class(ran, capsys):
    ran(TWO, method=METHOD)
    assert capsys.readouterr().err.count("trains with --adv freelb") == 3
    _, orders = ran(TWO, method={**METHOD, "adv_trainer": "Student"})
    said = capsys.readouterr().err
    assert "Student trains with" in said
    assert "Youngest trains with" in said
    assert "Teacher" not in said
    assert [note.event for note in orders.notes()] == ["left", *["built", "began"] * 2]


def test_a_step_without_the_method_is_an_error_that_no_script_can_hide(ran):
    text = script("glue").replace(
        "def main",
        """class Mine(Trainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = model(**self._prepare_inputs(inputs)).loss
        loss.backward()
        return loss.detach()
def main""",
    )
    text = text.replace("trainer = Trainer(", "trainer = Mine(")
    with pytest.raises(UserError, match="took part in 0 of 1 micro-batches"):
        ran(text, method=METHOD)
    swallowed = text.replace("trainer.train()", "\n    ".join(SWALLOWS))
    _, orders = ran(swallowed, method=METHOD)
    assert [note.event for note in orders.notes()] == ["built", "began", "failed"]


SWALLOWS = ("try:", "    trainer.train()", "except Exception:", "    pass")


def test_a_script_that_has_the_mixin_keeps_its_own_method(ran, capsys):
    text = by_hand(script("glue"))
    own = words({**METHOD, "adv": "pgd"})
    outside, orders = ran(text, *own, method=METHOD)
    assert [note.event for note in orders.notes()] == ["began"]
    assert "trains with" not in capsys.readouterr().err
    inside, _ = ran(text, *own)
    assert distance(weights(outside["trainer"]), weights(inside["trainer"])) == 0


def test_a_search_varies_the_flags(ran):
    pytest.importorskip("optuna")
    text = """
from transformers import Trainer, TrainingArguments
import shapes as parts
flags = dict(max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True)
args = TrainingArguments("nowhere", save_strategy="no", **flags)
seen = []
class Seen(Trainer):
    def train(self, *args, **kwargs):
        output = super().train(*args, **kwargs)
        seen.append(self._description()["epsilon"])
        return output
trainer = Seen(model_init=lambda: parts.model("glue"), args=args,
    train_dataset=parts.data("glue"), eval_dataset=parts.data("glue"))
trainer.hyperparameter_search(
    lambda trial: {"adv_epsilon": (0.1, 0.2)[trial.number]}, backend="optuna", n_trials=2,
    compute_objective=lambda metrics: 0.0)
"""
    assert ran(text, method=METHOD)[0]["seen"] == [0.1, 0.2]
