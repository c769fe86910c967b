"""Robust accuracy during training: logged, chosen by, and missed when it collapses."""

import logging

import pytest
from tiny_training import build, rows

from nlp_adv.training.callbacks import RobustnessCallback


def run(folder, scores, **flags):
    """A training of as many evaluations as there are scores; each call returns the next."""
    waiting = iter(scores)
    flags = {"eval_strategy": "epoch", "num_train_epochs": len(scores), "max_steps": -1} | flags
    trainer = build(folder, options={"eval_dataset": rows(4)}, **flags)
    models = []

    def evaluator(model):
        models.append(model)
        return next(waiting)

    trainer.add_callback(RobustnessCallback(trainer, evaluator))
    trainer.train()
    return trainer, models


def scores(*pairs, **more):
    return [{"clean_accuracy": c, "robust_accuracy": r, **more} for c, r in pairs]


def test_scores_are_logged_and_each_evaluation_measures_the_trained_model(tmp_path):
    trainer, models = run(tmp_path, scores((0.8, 0.5), (0.9, 0.6), (0.9, 0.7)))
    for name, want in (("robust", [0.5, 0.6, 0.7]), ("clean", [0.8, 0.9, 0.9])):
        key = f"eval_{name}_accuracy"
        assert [entry[key] for entry in trainer.state.log_history if key in entry] == want
    assert all(model is trainer.model for model in models)


def test_the_best_checkpoint_can_be_the_most_robust(tmp_path):
    trainer, _ = run(
        tmp_path,
        scores((0.8, 0.5), (0.9, 0.6), (0.9, 0.55)),
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="robust_accuracy",
    )
    assert trainer.state.best_metric == 0.6
    assert trainer.state.best_global_step == 2 * trainer.state.max_steps // 3


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([(0.8, 0.5), (0.85, 0.29)], True),
        ([(0.8, 0.5), (0.85, 0.31)], False),  # 0.19 lost
        ([(0.8, 0.5), (0.69, 0.2)], False),  # clean accuracy fell as well
        ([(0.686, 0.36), (0.634, 0.15)], True),  # as fast training on images collapsed
        ([(0.8, 0.5), (0.8, 0.4), (0.8, 0.25)], True),  # below the best, not below the last
    ],
)
def test_it_warns_when_robustness_falls_and_clean_accuracy_does_not(tmp_path, caplog, pairs, said):
    with caplog.at_level(logging.WARNING, "nlp_adv"):
        run(tmp_path, scores(*pairs))
    assert ("collapsed" in caplog.text) == said


def test_a_constant_answer_is_named_and_is_no_best(tmp_path, caplog):
    first = scores((0.5, 0.5), constant_answer=1.0)
    with caplog.at_level(logging.WARNING, "nlp_adv"):
        run(tmp_path, first + scores((0.5, 0.1), constant_answer=0.0))
    assert "same answer" in caplog.text
    assert "collapsed" not in caplog.text


def test_an_evaluation_of_another_split_is_left_alone(tmp_path):
    trainer, models = run(tmp_path, scores((0.8, 0.5)))
    trainer.evaluate(rows(4), metric_key_prefix="test")
    assert len(models) == 1


def test_an_evaluator_without_the_scores_is_refused(tmp_path):
    with pytest.raises(ValueError, match="robust_accuracy"):
        run(tmp_path, [{"clean_accuracy": 0.5}])
