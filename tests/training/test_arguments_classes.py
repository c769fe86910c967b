"""Classes of arguments made from the mixin: with the decorator and without it."""

import dataclasses
import inspect
import pickle
from dataclasses import dataclass, field

import pytest
from tiny_training import assert_one_sentence
from transformers import HfArgumentParser, Seq2SeqTrainingArguments, TrainingArguments

from nlp_adv import AdversarialArguments, AdversarialTrainingArguments, UserError

pytestmark = pytest.mark.fault("T13")


@dataclass
class ConfigOfAnotherPackage(TrainingArguments):
    """As trl has them: own fields, some made by a factory."""

    max_length: int = field(default=1024, metadata={"help": "Longest row."})
    kept: list[str] = field(default_factory=lambda: ["a", "b"])


class Plain(AdversarialArguments, Seq2SeqTrainingArguments):
    pass


class PlainOfAnother(AdversarialArguments, ConfigOfAnotherPackage):
    pass


class PlainWithFields(AdversarialArguments, Seq2SeqTrainingArguments):
    depth: int = field(default=3, metadata={"help": "How deep."})
    names: list[str] = field(default_factory=lambda: ["x"])


@dataclass
class DecoratedWithFields(AdversarialArguments, Seq2SeqTrainingArguments):
    depth: int = field(default=3, metadata={"help": "How deep."})
    names: list[str] = field(default_factory=lambda: ["x"])


class PlainOfDecorated(DecoratedWithFields):
    width: int = 5


class PlainOfPlain(PlainWithFields):
    width: int = 5


class PlainOfOurs(AdversarialTrainingArguments):
    width: int = 5


COMMON = ["--output_dir", "out", "--use_cpu", "--adv", "freelb", "--adv_steps", "2"]


def parse(cls, *words):
    (args,) = HfArgumentParser(cls).parse_args_into_dataclasses([*COMMON, *words])
    return args


@pytest.mark.parametrize(
    ("cls", "words", "want"),
    [
        (Plain, ("--predict_with_generate",), {"predict_with_generate": True}),
        (PlainOfAnother, ("--max_length", "7"), {"max_length": 7, "kept": ["a", "b"]}),
        (PlainWithFields, ("--depth", "4"), {"depth": 4, "names": ["x"]}),
        (DecoratedWithFields, ("--names", "y", "z"), {"depth": 3, "names": ["y", "z"]}),
        (PlainOfDecorated, ("--width", "6"), {"width": 6, "depth": 3, "names": ["x"]}),
        (PlainOfPlain, ("--width", "6", "--depth", "1"), {"width": 6, "depth": 1}),
        (PlainOfOurs, ("--width", "6"), {"width": 6}),
    ],
)
def test_the_parser_and_python_know_all_fields(cls, words, want):
    made = cls("out", use_cpu=True, adv="freelb", adv_steps=2, **want)
    for args in (parse(cls, *words), made):
        assert {key: getattr(args, key) for key in want} == want
        assert args.adversarial_schedule().method.method.steps == 2
        assert type(args) is cls


def test_python_comes_first():
    """Nothing has read the class's fields yet."""

    class Fresh(AdversarialArguments, Seq2SeqTrainingArguments):
        depth: int = 3

    args = Fresh(output_dir="out", use_cpu=True, adv="pgd", depth=9, predict_with_generate=True)
    assert (args.adv, args.depth, args.predict_with_generate) == ("pgd", 9, True)


def test_with_and_without_the_decorator_the_fields_are_the_same():
    with_it, without = (dataclasses.fields(c) for c in (DecoratedWithFields, PlainWithFields))
    assert [f.name for f in with_it] == [f.name for f in without]
    assert {f.name: f.metadata for f in with_it} == {f.name: f.metadata for f in without}
    keys = [list(inspect.signature(c).parameters) for c in (DecoratedWithFields, PlainWithFields)]
    assert keys[0] == keys[1]


def test_two_instances_share_no_default_that_a_factory_makes():
    first, second = (PlainWithFields("out", use_cpu=True) for _ in range(2))
    first.names.append("y")
    assert second.names == ["x"]


def test_the_flags_are_checked_without_the_decorator():
    with pytest.raises(UserError, match="steps"):
        Plain("out", use_cpu=True, adv="freelb", adv_steps=-1)


def test_saved_arguments_come_back():
    """The Trainer pickles them into training_args.bin."""
    args = Plain("out", use_cpu=True, adv="freelb", adv_epsilon=0.4, adv_steps=2)
    again = pickle.loads(pickle.dumps(args))
    assert again.adversarial_schedule() == args.adversarial_schedule()


@pytest.mark.parametrize("ours", [AdversarialArguments, AdversarialTrainingArguments])
def test_the_wrong_order_is_refused_when_the_class_is_made(ours):
    with pytest.raises(UserError, match="before Seq2SeqTrainingArguments") as caught:
        type("Mine", (Seq2SeqTrainingArguments, ours), {})
    assert_one_sentence(caught.value)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")  # trl's
def test_trls_arguments():
    trl = pytest.importorskip("trl")
    cls = type("Mine", (AdversarialArguments, trl.SFTConfig), {"__module__": __name__})
    args = parse(cls, "--max_length", "7", "--bf16", "false")
    assert (args.max_length, args.adv) == (7, "freelb")
