"""What a newcomer sees of the package before anything of it is loaded."""

import inspect
import pydoc
import sys

import forked
import pytest
from transformers import Trainer, TrainingArguments

import nlp_adv
from nlp_adv import AdversarialMixin, AdversarialTrainer

PARTS = ("nlp_adv", "nlp_adv.sites", "nlp_adv.robustness")


@pytest.mark.parametrize("part", PARTS)
def test_dir_lists_every_public_name(part):
    module = __import__(part, fromlist=["__all__"])
    assert set(module.__all__) <= set(dir(module))
    assert all(hasattr(module, name) for name in module.__all__)
    assert len(dir(module)) == len(set(dir(module)))


def lists_without_torch() -> None:
    forked.forget("nlp_adv", "torch", "transformers")
    sys.modules |= {"torch": None, "transformers": None}  # importing one is an error
    fresh = __import__("nlp_adv")
    assert "AdversarialTrainer" in dir(fresh)
    assert "robustness" in dir(fresh)


def test_names_are_listed_without_torch():
    assert forked.code_of(lists_without_torch) == 0


def test_help_shows_the_names_that_are_loaded_later():
    text = pydoc.plain(pydoc.render_doc(nlp_adv))
    for name in ("class AdversarialTrainer", "class FreeLB", "class L2Ball", "objective("):
        assert name in text


def parameters(cls):
    return inspect.signature(cls).parameters


def test_the_signature_is_that_of_trainer_and_a_method():
    ours, theirs = parameters(AdversarialTrainer), parameters(Trainer)
    assert list(ours) == [*theirs, "method", "kwargs"]
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default
        assert ours[name].kind is parameter.kind
    assert ours["method"].kind is inspect.Parameter.KEYWORD_ONLY


class Heard(Trainer):
    """A Trainer that notes what it is given, and knows less than others do."""

    def __init__(self, model=None, args=None, data_collator=None, *, new=None):
        self.given = {"model": model, "args": args, "data_collator": data_collator, "new": new}
        super().__init__(model, args, data_collator)


def test_arguments_by_position_go_where_trainer_takes_them(tmp_path):
    import torch

    model, args = torch.nn.Linear(2, 2), TrainingArguments(str(tmp_path), report_to=[])
    collator, train, test = (lambda rows: {}), [{}], [{}, {}]
    ours = AdversarialTrainer(model, args, collator, train, test, method=nlp_adv.NoAttack())
    theirs = Trainer(model, args, collator, train, test)
    for name in ("model", "args", "data_collator", "train_dataset", "eval_dataset"):
        assert getattr(ours, name) is getattr(theirs, name)


def test_a_trainer_that_comes_next_may_know_fewer_arguments_and_others(tmp_path):
    import torch

    class Both(AdversarialTrainer, Heard):
        pass

    assert Both.__mro__.index(AdversarialMixin) < Both.__mro__.index(Heard)
    model, args = torch.nn.Linear(2, 2), TrainingArguments(str(tmp_path), report_to=[])
    both = Both(model, args, new=3, method=nlp_adv.NoAttack())
    assert both.given == {"model": model, "args": args, "data_collator": None, "new": 3}
    with pytest.raises(TypeError, match="compute_metrics"):
        Both(model, args, compute_metrics=print, method=nlp_adv.NoAttack())


def test_an_argument_that_nobody_knows_is_refused_as_trainer_does(tmp_path):
    with pytest.raises(TypeError, match="tokenizer"):
        AdversarialTrainer(tokenizer=None, method=nlp_adv.NoAttack())
