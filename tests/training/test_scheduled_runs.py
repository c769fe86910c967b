"""Schedules in the Trainer: which steps are attacked, how often, with what; and resuming."""

import json
import logging
import re
from dataclasses import fields
from pathlib import Path

import pytest
from tiny_training import (
    Call,
    Watched,
    assert_one_sentence,
    build,
    distance,
    logged,
    rows,
    slowly,
    trained,
    weights,
)

import nlp_adv
from nlp_adv import (
    AdversarialTrainer,
    AdversarialTrainingArguments,
    Every,
    StartWhen,
    UserError,
    WarmUp,
)
from nlp_adv.methods import FGM, FreeLB, Linear
from nlp_adv.perturbation import L2Ball

PASSES = {"fgm": 2, "freelb": 3}
FREELB = {"adv": "freelb", "adv_init_magnitude": 0.0}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 1}


class Passes:
    """Calls of the classification head while it is trained: a look at a site freezes it."""

    def __init__(self, head):
        self.count = 0
        head.register_forward_pre_hook(self._called)

    def _called(self, head, inputs):
        self.count += head.weight.requires_grad


class Counting(AdversarialTrainer):
    """Counts the passes of each micro-batch, grouped by optimizer step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.steps, self._counted = [], Passes(self.model.classifier)
        self.add_callback(Call("on_step_begin", lambda state: self.steps.append([])))

    def training_step(self, *args, **kwargs):
        before = self._counted.count
        loss = super().training_step(*args, **kwargs)
        self.steps[-1].append(self._counted.count - before)
        return loss


def passes(folder, **given) -> list[int]:
    """Of each optimizer step, every micro-batch of which must have as many."""
    trainer = trained(folder, Counting, **given)
    if given.get("gradient_accumulation_steps", 1) > 1:
        trainer.steps[0][0] -= 2  # those that find out how the loss is scaled
    assert all(len(set(step)) == 1 for step in trainer.steps)
    return [step[0] for step in trainer.steps]


def scores(*values):
    """What a Trainer takes as `compute_metrics`, and the rows for it: one value an evaluation."""
    each = iter(values)
    return {"compute_metrics": lambda _: {"score": next(each)}, "eval_dataset": rows(4)}


def config(folder):
    return json.loads((folder / "adversarial_config.json").read_text())


def test_the_page_names_the_flags_that_there_are():
    folder = Path(nlp_adv.__file__).parents[1] / "docs" / "howto"
    page = (folder / "schedules.md").read_text(encoding="utf-8")
    there = {one.name for one in fields(AdversarialTrainingArguments)}
    assert set(re.findall(r"--(adv_\w+)", page)) <= there
    in_table = set(re.findall(r"^\| `--(\w+)", page, flags=re.MULTILINE))
    assert {"adv_start_epoch", "adv_start_when", "adv_every", "adv_linear"} <= in_table
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    found: dict = {"model": None, "args": None, "rows": None}
    exec(block.rpartition("trainer = ")[0], found)  # up to the Trainer, which needs a model
    assert found["schedule"].over(40, 10).begun(20).at(22).method.steps == 1


# Where the attack acts, of 8 steps; an epoch has 6.
ACTS = {
    "step": ({"adv_start_step": 3}, range(3, 8)),
    "share": ({"adv_start_step": 0.25}, range(2, 8)),
    "epoch": ({"adv_start_epoch": 1}, [6, 7]),
    "part of an epoch": ({"adv_start_epoch": 0.5}, range(3, 8)),
    "epoch or step": ({"adv_start_epoch": 0.5, "adv_start_step": 5}, range(5, 8)),
    "every": ({"adv_every": 3}, [0, 3, 6]),
    "every from a step": ({"adv_every": 3, "adv_start_step": 1}, [1, 4, 7]),
    "every from an epoch": ({"adv_every": 2, "adv_start_epoch": 0.5}, [3, 5, 7]),
    "metric": ({"adv_start_when": "eval_score>0.5", **EVALUATED}, range(3, 8)),
    "metric, every second step": (
        {"adv_start_when": "eval_score>0.5", "adv_every": 2, **EVALUATED},
        [3, 5, 7],
    ),
    "metric or step": (
        {"adv_start_when": "eval_score>0.5", "adv_start_step": 5, **EVALUATED},
        range(5, 8),
    ),
}
FEW = ("epoch", "every from a step", "metric, every second step")


@pytest.mark.parametrize("accumulation", [1, *slowly(2)])
@pytest.mark.parametrize("adv", PASSES)
@pytest.mark.parametrize("case", [*FEW, *slowly(*(case for case in ACTS if case not in FEW))])
def test_counted_passes(tmp_path, case, adv, accumulation):
    flags, acting = ACTS[case]
    found = passes(
        tmp_path,
        data=rows(24 * accumulation),
        options=scores(0.1, 0.5, 0.6, *[0.2] * 5),
        adv=adv,
        max_steps=8,
        gradient_accumulation_steps=accumulation,
        **flags,
    )
    assert found == [PASSES[adv] if step in acting else 1 for step in range(8)]


def test_steps_that_change_linearly(tmp_path):
    given = {"adv_linear": "steps=1", "adv_steps": 5, "adv_start_step": 1, "max_steps": 6}
    assert passes(tmp_path, **FREELB, **given) == [1, 1, 2, 3, 4, 5]
    over = {**given, "adv_linear_steps": 2, "gradient_accumulation_steps": 2}
    assert passes(tmp_path, **FREELB, **over) == [1, 1, 3, 5, 5, 5]


@pytest.mark.parametrize("adv", PASSES)
def test_a_radius_that_changes_linearly(tmp_path, adv):
    given = {"adv_epsilon": 0.4, "adv_unit": "absolute", "adv_linear": "epsilon=1/10"}
    given |= {"adv_step_size": 9.0} if adv == "freelb" else {}  # to the sphere
    trainer = trained(tmp_path, adv=adv, adv_linear_steps=3, max_steps=5, **given)
    want = [0.1, 0.2, 0.3, 0.4, 0.4]
    assert logged(trainer, "delta_norm") == pytest.approx(want, rel=1e-5)


def test_steps_between_are_those_of_the_stock_trainer(tmp_path):
    """A run whose only attack comes at the end is the ordinary one up to there."""
    given = {"data": rows(24), "max_steps": 5, "learning_rate": 0.05}
    ours = trained(tmp_path, Watched, adv="freelb", adv_every=9, adv_start_step=4, **given)
    plain = trained(tmp_path, Watched, adv="none", **given)
    for step in range(4):
        assert distance(ours.gradients[step], plain.gradients[step]) == 0
    assert distance(ours.gradients[4], plain.gradients[4]) > 0


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_training_loss_begins_the_attack(tmp_path, accumulation):
    """It is the attack from the step after the log that passes the threshold."""
    given = {"data": rows(24), "max_steps": 8, "learning_rate": 0.02, "logging_steps": 2}
    given |= {"gradient_accumulation_steps": accumulation}
    losses = logged(trained(tmp_path, adv="none", **given), "loss")
    low = next(n for n in range(1, 4) if losses[n] < min(losses[:n]))  # the first new minimum
    threshold = (losses[low] + min(losses[:low])) / 2
    waiting = trained(tmp_path, adv="freelb", adv_start_when=f"loss<{threshold}", **given)
    begin = 2 * (low + 1)
    assert waiting.attack_schedule.begun_at == waiting.attack_schedule.begins == begin
    same = trained(tmp_path, adv="freelb", adv_start_step=begin, **given)
    assert distance(weights(waiting), weights(same)) == 0


def test_in_python_as_by_flags(tmp_path):
    method = FreeLB(L2Ball(0.4), 0.2, 4, init_magnitude=0.1)
    flags = {
        "adv_every": 2,
        "adv_linear": "steps=2,epsilon=0.1",
        "adv_start_when": "eval_score>=0.5",
        "adv_start_epoch": 0.5,
        **EVALUATED,
    }
    several = {"adv": "freelb", "adv_epsilon": 0.4, "adv_unit": "absolute"}
    several |= {"adv_step_size": 0.2, "adv_init_magnitude": 0.1, "adv_steps": 4}
    values = (0.1, 0.5, *[0.0] * 6)
    schedule = Every(
        Linear(
            StartWhen(WarmUp(method, start_epoch=0.5), "eval_score >= 0.5"),
            {"steps": 2, "epsilon": 0.1},
        ),
        2,
    )
    runs = {
        "flags": {"options": scores(*values), **flags, **several},
        "method and flags": {"options": scores(*values) | {"method": method}, **flags},
        "Python": {"options": scores(*values) | {"method": schedule}, **EVALUATED},
    }
    done = {name: trained(tmp_path / name, max_steps=8, **given) for name, given in runs.items()}
    for name, trainer in done.items():
        trainer.save_model()
        assert distance(weights(trainer), weights(done["flags"])) == 0, name
        assert config(tmp_path / name) == config(tmp_path / "flags"), name
    written = config(tmp_path / "flags")
    want = {
        "start_step": 3,
        "start_when": "eval_score>=0.5",
        "begun_at": 2,
        "linear": {"steps": 2, "epsilon": 0.1},
        "total_steps": 8,
        "every": 2,
        "steps": 4,
    }
    assert want.items() <= written.items()


# Resuming.

SCHEDULES = {
    "every": {"adv_every": 2},
    "epoch": {"adv_start_epoch": 0.5, "adv_every": 2},
    "linear": {"adv_linear": "epsilon=0.1,step_size=0.02", "adv_epsilon": 0.4},
    "metric": {"adv_start_when": "eval_score>0.5", "adv_linear": "epsilon=0.01", **EVALUATED},
}


@pytest.mark.parametrize("at", [2, 4])
@pytest.mark.parametrize("name", ["metric", *slowly(*[n for n in SCHEDULES if n != "metric"])])
def test_a_resumed_run_is_the_whole_one_to_the_last_bit(tmp_path, name, at):
    """The threshold passes at step 3: after one of the checkpoints, and before the other."""
    flags = SCHEDULES[name] | {"adv": "freelb", "max_steps": 7, "data": rows(24)}
    values = [0.1, 0.5, 0.6, *[0.2] * 4]
    whole = trained(
        tmp_path, Watched, options=scores(*values), save_strategy="steps", save_steps=2, **flags
    )
    again = build(tmp_path / "again", Watched, options=scores(*values[at:]), **flags)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    assert distance(weights(again), weights(whole)) == 0
    assert logged(again, "delta_norm") == logged(whole, "delta_norm")
    assert again.attack_schedule == whole.attack_schedule
    if name == "metric":
        assert whole.attack_schedule.begun_at == 3
        saved = config(tmp_path / f"checkpoint-{at}")
        assert saved["begun_at"] == (None if at == 2 else 3)


WAITING = SCHEDULES["metric"] | {"adv": "fgm", "data": rows(24), "max_steps": 4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    trained(folder, options=scores(0.6, 0, 0, 0), save_strategy="steps", save_steps=2, **WAITING)
    return folder / "checkpoint-2"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"adv_start_when": "eval_score>0.4"}, "start_when eval_score>0.5"),
        ({"adv_linear": "epsilon=0.02"}, "linear"),
        ({"max_steps": 9}, "total_steps 4 (this run: 9)"),
        ({"adv_every": 3}, "every None (this run: 3)"),
    ],
)
def test_another_schedule_does_not_go_on(tmp_path, checkpoint, other, words):
    trainer = build(tmp_path, options=scores(), **WAITING | other)
    with pytest.raises(UserError) as caught:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert words in str(caught.value)


# What is said.


def fails(folder, cls=AdversarialTrainer, **given) -> str:
    trainer = build(folder, cls, **{"adv": "fgm", "max_steps": 4} | given)
    with pytest.raises(UserError) as caught:
        trainer.train()
    assert_one_sentence(caught.value)
    return str(caught.value)


class TestABeginningThatDoesNotCome:
    def test_an_unknown_metric_at_the_first_evaluation(self, tmp_path):
        steps = []
        text = fails(
            tmp_path,
            options=scores(0.1, 0.1, 0.1, 0.1)
            | {"callbacks": [Call("on_step_end", lambda state: steps.append(state.global_step))]},
            adv_start_when="eval_scores>0.5",
            eval_strategy="steps",
            eval_steps=2,
        )
        assert "'eval_scores'" in text
        assert "did you mean eval_score" in text
        assert "loss, grad_norm, learning_rate, eval_loss" in text
        assert steps == [1, 2]

    def test_an_unknown_number_at_the_first_log(self, tmp_path):
        text = fails(tmp_path, adv_start_when="los<0.5", logging_steps=2)
        assert "did you mean loss" in text

    def test_of_several_evaluations_at_a_step_any_may_bring_it(self, tmp_path):
        options = scores(*[0.6] * 8) | {"eval_dataset": {"a": rows(4), "b": rows(4)}}
        given = {"adv": "fgm", "adv_start_when": "eval_b_score>0.5", "max_steps": 3, **EVALUATED}
        assert passes(tmp_path, options=options, **given) == [1, 2, 2]

    def test_a_metric_that_another_callback_logs(self, tmp_path):
        trainer = build(
            tmp_path,
            Counting,
            adv="fgm",
            adv_start_when="eval_robust>0.5",
            max_steps=3,
            options=scores(0, 0, 0),
            **EVALUATED,
        )
        trainer.add_callback(Call("on_evaluate", lambda state: trainer.log({"eval_robust": 1.0})))
        trainer.train()
        assert trainer.steps == [[1], [2], [2]]

    def test_a_method_set_in_mid_run_has_a_beginning_of_its_own(self, tmp_path):
        """It reads the log from the first entry on; the one before it has begun already."""
        options = scores(0.6, 0.1, 0.1, 0.9, 0.1, 0.1)
        options["method"] = StartWhen(FGM(L2Ball(0.3)), "eval_score>0.5")
        trainer = build(tmp_path, Counting, options=options, max_steps=6, **EVALUATED)

        def change(state):
            if state.global_step == 3:
                trainer.method = StartWhen(FGM(L2Ball(0.3)), "eval_score>0.8")

        trainer.add_callback(Call("on_step_end", change))
        trainer.train()
        assert trainer.steps == [[1], [2], [2], [1], [2], [2]]

    def test_no_evaluation_and_no_log(self, tmp_path):
        assert "--eval_strategy" in fails(tmp_path, adv_start_when="eval_score>0.5")
        text = fails(tmp_path, adv_start_when="loss<1", logging_strategy="no")
        assert "--logging_strategy" in text

    def test_a_threshold_that_never_passes(self, tmp_path):
        given = {"adv_start_when": "eval_score>0.9", **EVALUATED}
        text = fails(tmp_path, options=scores(0.1, 0.8, 0.3, 0.2), **given)
        assert "never began in 4 steps" in text
        assert "0.8 was nearest" in text
        text = fails(tmp_path, adv_start_when="loss<1e-9", logging_steps=2)
        assert "was nearest" in text
        assert "never logged" in fails(tmp_path, adv_start_when="loss<1", logging_steps=50)

    def test_one_that_passes_as_the_run_ends(self, tmp_path):
        given = {"adv_start_when": "eval_score>0.9", **EVALUATED}
        assert "held at step 4 only" in fails(tmp_path, options=scores(0, 0, 0, 1), **given)

    @pytest.mark.parametrize(
        "flags", [{"adv_start_when": "loss<1e-9"}, {"adv_start_step": 3}], ids=["when", "step"]
    )
    def test_a_run_that_is_stopped_before_is_warned_of(self, tmp_path, caplog, flags):
        trainer = build(tmp_path, adv="fgm", max_steps=4, **flags)
        stop = Call(
            "on_step_end", lambda state: setattr(trainer.control, "should_training_stop", 1)
        )
        trainer.add_callback(stop)
        with caplog.at_level(logging.WARNING):
            trainer.train()
        assert "never began in 1 steps" in caplog.text

    def test_the_plain_run_beside_it_waits_for_nothing(self, tmp_path):
        trainer = trained(tmp_path, adv="none", adv_start_when="eval_score>2", adv_every=2)
        assert trainer.state.global_step == 2


BAD = {
    "every": ({"adv_every": 0}, "--adv_every"),
    "negative every": ({"adv_every": -2}, "--adv_every"),
    "epoch": ({"adv_start_epoch": -1.0}, "--adv_start_epoch"),
    "epoch of nan": ({"adv_start_epoch": float("nan")}, "--adv_start_epoch"),
    "condition": ({"adv_start_when": "eval_accuracy=0.8"}, "--adv_start_when"),
    "empty condition": ({"adv_start_when": ""}, "--adv_start_when"),
    "linear without a number": ({"adv_linear": "epsilon"}, "--adv_linear"),
    "linear without a name": ({"adv_linear": "=0.1"}, "--adv_linear"),
    "empty linear": ({"adv_linear": ""}, "--adv_linear"),
    "linear of infinity": ({"adv_linear": "epsilon=inf"}, "--adv_linear"),
    "division by zero": ({"adv_linear": "epsilon=1/0"}, "--adv_linear"),
    "linear twice": ({"adv_linear": "epsilon=0.1,epsilon=0.2"}, "twice"),
    "linear of another method": ({"adv_linear": "steps=1"}, "--adv_linear"),
    "a negative radius": ({"adv_linear": "epsilon=-0.1"}, "--adv_linear"),
    "linear steps alone": ({"adv_linear_steps": 3.0}, "--adv_linear_steps"),
    "negative linear steps": (
        {"adv_linear": "epsilon=0.1", "adv_linear_steps": -3.0},
        "--adv_linear_steps",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_flag_is_refused_in_one_sentence(tmp_path, case):
    flags, words = BAD[case]
    with pytest.raises(UserError) as caught:
        build(tmp_path, adv="fgm", **flags)
    assert_one_sentence(caught.value)
    assert words in str(caught.value)
    assert "--adv fgm" in str(caught.value)


def test_an_epoch_beyond_the_run(tmp_path):
    text = fails(tmp_path, data=rows(24), adv_start_epoch=1, max_steps=6)
    assert "step 6 of a run of 6" in text
    assert "--adv_start_epoch" in text


def test_a_loop_of_ones_own_has_no_log_to_wait_for(tmp_path):
    method = StartWhen(FGM(L2Ball(0.1)), "loss<1")
    trainer = build(tmp_path, options={"method": method})
    with pytest.raises(UserError, match="Trainer's train"):
        trainer.training_step(trainer.model, dict(rows(1)[0]))


@pytest.mark.parametrize("start", [0, 3])
def test_a_weight_that_is_not_there_is_missed_before_the_run(tmp_path, start):
    steps = []
    text = fails(
        tmp_path,
        options={"callbacks": [Call("on_step_begin", steps.append)]},
        adv="awp",
        adv_parameters="layer.1,layer.9",
        adv_start_step=start,
    )
    assert "'layer.9'" in text
    assert "--adv_parameters" in text
    assert steps == []


def test_named_weights_are_written_down(tmp_path):
    trainer = trained(tmp_path, adv="awp", adv_parameters="layer.1,classifier", max_steps=1)
    trainer.save_model()
    assert config(tmp_path)["parameters"] == "layer.1,classifier"
