"""The flags: what the command line gives, what is refused, what the method becomes."""

import inspect
import re
from dataclasses import dataclass, replace
from typing import get_args

import pytest
from tiny_training import assert_one_sentence, build
from transformers import HfArgumentParser, Seq2SeqTrainingArguments, Trainer, TrainingArguments

from nlp_adv import (
    AdversarialArguments,
    AdversarialTrainer,
    AdversarialTrainingArguments,
    UserError,
)
from nlp_adv.methods import (
    AWP,
    FGM,
    METHODS,
    PGD,
    VAT,
    YOPO,
    FGMMatrix,
    FreeLB,
    NoAttack,
    Scaled,
    WarmUp,
    bare,
    own_settings,
    registry,
)
from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall
from nlp_adv.training import arguments


@dataclass
class Both(AdversarialArguments, Seq2SeqTrainingArguments):
    pass


@dataclass
class Data:
    task_name: str | None = None


def parse(*words, cls=AdversarialTrainingArguments):
    (args,) = HfArgumentParser(cls).parse_args_into_dataclasses(
        ["--output_dir", "out", "--use_cpu", *words]
    )
    return args


def method_of(*words):
    return parse(*words).adversarial_schedule().method


def test_without_flags_training_is_ordinary():
    assert parse().adversarial_schedule() == WarmUp(NoAttack(), 0, 0)


@pytest.mark.parametrize("name", METHODS)
def test_a_bare_name_is_the_preset(name):
    assert method_of("--adv", name) == METHODS[name].preset()


@pytest.mark.parametrize(
    ("name", "cls"),
    [("fgm_matrix", FGMMatrix), ("freelb", FreeLB), ("awp", AWP), ("vat", VAT), ("yopo", YOPO)],
)
def test_names_are_those_of_the_papers(name, cls):
    assert type(bare(method_of("--adv", name))) is cls


# A flag for every field of every method.


FIELDS = [(name, key) for name, cls in METHODS.items() for key in own_settings(cls)]


def actions():
    """What the parser knows of each flag."""
    parser = HfArgumentParser(AdversarialTrainingArguments)
    return {action.dest: action for action in parser._actions}


def test_every_method_with_settings_is_there():
    assert {name for name, _ in FIELDS} == set(METHODS) - {"none", "fgm_matrix"}


def test_every_field_has_a_help_that_is_its_line_in_the_docstring():
    known = actions()
    for name, key in FIELDS:
        text = known[f"adv_{key}"].help
        assert "See " not in text, (name, key)
        docs = [one.__doc__ or "" for one in METHODS[name].__mro__]  # one method builds on another
        lines = "\n".join(map(inspect.cleandoc, docs)).splitlines()
        line = next(line for line in lines if line.startswith(f"    {key}: "))
        sentence = re.split(r"[.;](?:\s|$)", line.split(": ", 1)[1])[0]
        entry = rf"\b{name}(, \w+)*: {re.escape(sentence)}"  # behind the methods that have it
        assert re.search(entry, text.replace("%%", "%")), (name, key)


def test_the_help_can_be_printed(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    assert "YOPO" not in text  # names, as they are given
    for name, key in FIELDS:
        assert f"--adv_{key}" in text, name
    for flag in ("adv", "adv_first_block", "adv_epsilon", "adv_mend_loss_scaling"):
        assert f"--{flag} " in text


def test_every_flag_of_a_method_is_a_field_of_one():
    named = {"adv", "adv_start_step", "adv_ramp_steps", "adv_exclude_special_tokens"}
    named |= {"adv_embedding", "adv_site", "adv_first_block", "adv_seed", "adv_mend_loss_scaling"}
    named |= {"adv_nonfinite_steps", "adv_start_epoch", "adv_start_when"}
    named |= {"adv_every", "adv_linear", "adv_linear_steps"}
    named |= {"adv_share", "adv_inner_precision", "adv_inner_dropout", "adv_inner_prefix"}
    named |= {"adv_keep_on"}
    named |= {"adv_span"}
    named |= {f"adv_{key}" for key in ("epsilon", "norm", "per", "unit")}
    fields = {f"adv_{key}" for _, key in FIELDS}
    assert {dest for dest in actions() if dest.startswith("adv")} == named | fields


@pytest.mark.parametrize(("name", "key"), FIELDS)
def test_a_flag_alone_changes_its_field_alone(name, key):
    preset = METHODS[name].preset()
    kind = own_settings(METHODS[name])[key]
    before = getattr(bare(preset), key)
    number = 0.25 if before != 0.25 else 0.75
    text = "5" if key == "layers" else "classifier"
    value = {bool: not before, int: 5, str: text}.get(kind, number)
    value = next((one for one in get_args(kind) if isinstance(one, str) and one != before), value)
    changed = method_of("--adv", name, f"--adv_{key}", str(value))
    want = replace(bare(preset), **{key: value})
    assert bare(changed) == want != bare(preset)
    assert type(getattr(bare(changed), key)) is type(value)
    assert type(changed) is type(preset)


@pytest.mark.parametrize(("name", "key"), FIELDS)
def test_a_flag_of_another_method_is_refused(name, key):
    other = next(m for m in METHODS if key not in own_settings(METHODS[m]))
    kind = own_settings(METHODS[name])[key]
    value = (*(one for one in get_args(kind) if isinstance(one, str)), "0.25")[0]
    value = {bool: "true", int: "5"}.get(kind, value)
    wanted = f"{key} needs a method" if other == "none" else f"{other} has no {key}"
    with pytest.raises(UserError, match=wanted) as caught:
        parse("--adv", other, f"--adv_{key}", value)
    assert_one_sentence(caught.value)


@dataclass(frozen=True)
class Clashing:
    """A method.

    Args:
        steps: not a number.
    """

    steps: str = "many"
    name = "clashing"
    passes = 1
    inner_passes = 0

    def step(self, objective):
        raise NotImplementedError

    @classmethod
    def preset(cls):
        return cls()


def test_a_field_whose_type_clashes_with_another_methods_is_refused(monkeypatch):
    monkeypatch.setattr(registry, "_others", {"clashing": Clashing})
    with pytest.raises(UserError, match="clashing has a field steps of type") as caught:
        arguments._method_flags()
    assert_one_sentence(caught.value)


def test_a_length_that_may_be_a_tensor_and_one_that_may_not_share_a_flag():
    assert own_settings(FreeLB)["step_size"] != own_settings(PGD)["step_size"]
    assert actions()["adv_step_size"].type is float


def test_all_flags_of_a_method():
    words = (
        "--adv freelb --adv_epsilon 0.4 --adv_norm linf --adv_per token --adv_unit absolute "
        "--adv_step_size 0.1 --adv_steps 5 --adv_init_magnitude 0.05 --adv_clean_weight 0.25 "
        "--adv_start_step 0.1 --adv_ramp_steps 20 --adv_seed 7 --adv_embedding wte "
        "--adv_exclude_special_tokens --adv_mend_loss_scaling"
    )
    args = parse(*words.split())
    ball = LInfBall(0.4, "token")
    freelb = FreeLB(ball, 0.1, 5, init_magnitude=0.05, clean_weight=0.25)
    assert args.adversarial_schedule() == WarmUp(freelb, 0.1, 20)
    assert args.adv_seed == 7
    assert args.adv_embedding == "wte"
    assert args.adv_exclude_special_tokens is True
    assert args.adv_mend_loss_scaling is True


def test_dashes_are_underscores():
    dashed = "--adv pgd --adv-epsilon 0.2 --adv-step-size 0.1 --adv-steps 2 --adv-norm l1"
    under = "--adv pgd --adv_epsilon 0.2 --adv_step_size 0.1 --adv_steps 2 --adv_norm l1"
    assert method_of(*dashed.split()) == method_of(*under.split())
    assert parse("--adv-exclude-special-tokens").adv_exclude_special_tokens is True


@pytest.mark.parametrize(
    ("words", "want"),
    [
        ((), False),  # the preset's
        (("--adv_random_start", "True"), True),
        (("--adv_random_start", "false"), False),
    ],
)
def test_an_optional_bool_takes_a_value(words, want):
    assert method_of("--adv", "pgd", *words).method.random_start is want


def test_an_optional_bool_overrides_a_preset_that_is_on():
    on = ("--adv", "fgsm", "--adv_random_start", "1")
    assert method_of(*on).method.random_start is True


def test_epsilon_alone_keeps_the_other_lengths_in_proportion():
    preset, given = FreeLB.preset().method, method_of("--adv", "freelb", "--adv_epsilon", "0.3")
    assert isinstance(given, Scaled)
    assert given.unit == "relative"
    ratio = 0.3 / preset.ball.epsilon
    assert given.method.ball == L2Ball(0.3)
    assert given.method.step_size == pytest.approx(preset.step_size * ratio, rel=1e-12)
    assert given.method.init_magnitude == pytest.approx(preset.init_magnitude * ratio, rel=1e-12)


def test_a_norm_of_its_own():
    assert method_of("--adv", "fgm", "--adv_norm", "l1").method.ball == L1Ball(0.03)


def test_together_with_seq2seq_arguments():
    args = parse("--adv", "fgm", "--predict_with_generate", "--adv_epsilon", "0.1", cls=Both)
    assert args.predict_with_generate is True
    assert args.adversarial_schedule().method == Scaled(FGM(L2Ball(0.1)), unit="relative")
    with pytest.raises(UserError):
        parse("--adv", "fgm", "--adv_steps", "3", cls=Both)


def test_several_dataclasses_in_one_parser():
    parser = HfArgumentParser((AdversarialTrainingArguments, Data))
    args, data = parser.parse_args_into_dataclasses(
        ["--output_dir", "out", "--use_cpu", "--adv", "noise", "--task_name", "rte"]
    )
    assert (args.adv, data.task_name) == ("noise", "rte")


def test_a_dict_of_settings():
    (args,) = HfArgumentParser(AdversarialTrainingArguments).parse_dict(
        {"output_dir": "out", "use_cpu": True, "adv": "pgd", "adv_steps": 2}
    )
    assert args.adversarial_schedule().method.method.steps == 2


def test_the_arguments_survive_a_round_trip_through_their_dict():
    args = parse("--adv", "freelb", "--adv_epsilon", "0.4", "--adv_ramp_steps", "3")
    kept = {key: value for key, value in args.to_dict().items() if key.startswith("adv")}
    again = AdversarialTrainingArguments(output_dir="out", use_cpu=True, **kept)
    assert again.adversarial_schedule() == args.adversarial_schedule()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"adv": "freelbb"}, "freelbb"),
        ({"adv": "fgm", "adv_epsilon": -0.1}, "epsilon"),
        ({"adv": "fgm", "adv_epsilon": float("nan")}, "epsilon"),
        ({"adv": "fgm", "adv_epsilon": float("inf")}, "epsilon"),
        ({"adv": "fgm_matrix", "adv_epsilon": -1.0}, "epsilon"),
        ({"adv": "freelb", "adv_steps": 0}, "steps"),
        ({"adv": "pgd", "adv_steps": -1}, "steps"),
        ({"adv": "pgd", "adv_step_size": -0.1}, "step_size"),
        ({"adv": "freelb", "adv_init_magnitude": -0.1}, "init_magnitude"),
        ({"adv": "fgm", "adv_steps": 3}, "steps"),
        ({"adv": "fgm", "adv_random_start": True}, "random_start"),
        ({"adv": "none", "adv_epsilon": 0.1}, "epsilon"),
        ({"adv": "fgm_matrix", "adv_norm": "l2"}, "norm"),
        ({"adv": "fgm_matrix", "adv_ramp_steps": 2}, "ramp"),
        ({"adv": "fgm", "adv_clean_weight": 1.0}, "clean_weight"),
        ({"adv": "fgm", "adv_clean_weight": -0.5}, "clean_weight"),
        ({"adv": "fgm", "adv_unit": "absolute"}, "unit"),
        ({"adv": "fgm", "adv_unit": "metres", "adv_epsilon": 0.1}, "unit"),
        ({"adv": "fgm", "adv_norm": "l3"}, "norm"),
        ({"adv": "fgm", "adv_per": "word"}, "per"),
        ({"adv": "fgm", "adv_start_step": -1}, "start_step"),
        ({"adv": "fgm", "adv_ramp_steps": -1}, "ramp_steps"),
        ({"adv": "freeat", "adv_replays": 0}, "replays"),
        ({"adv": "freeat", "adv_epsilon": -1.0}, "epsilon"),
        ({"adv": "yopo", "adv_rounds": 0}, "rounds"),
        ({"adv": "yopo", "adv_steps": 0}, "steps"),
        ({"adv": "tavat", "adv_steps": 0}, "steps"),
        ({"adv": "vat", "adv_epsilon": float("inf")}, "epsilon"),
        ({"adv": "vat", "adv_xi": -0.1}, "xi"),
        ({"adv": "smart", "adv_init_magnitude": 0.0}, "init_magnitude"),
        ({"adv": "smart", "adv_decay": 1.5}, "decay"),
        ({"adv": "smart", "adv_proximal_weight": -1.0}, "proximal_weight"),
        ({"adv": "trades", "adv_beta": -1.0}, "beta"),
        ({"adv": "trades", "adv_init_magnitude": 0.0}, "init_magnitude"),
        ({"adv": "rdrop", "adv_epsilon": 0.1}, "epsilon"),
        ({"adv": "rdrop", "adv_ramp_steps": 2}, "ramp"),
        ({"adv": "awp", "adv_gamma": -0.1}, "gamma"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_values_are_refused_in_one_sentence(flags, named):
    with pytest.raises(UserError) as caught:
        AdversarialTrainingArguments(output_dir="out", use_cpu=True, **flags)
    assert_one_sentence(caught.value)
    assert named in str(caught.value)
    assert f"--adv {flags['adv']}" in str(caught.value)


@pytest.mark.parametrize("flag", ["--adv_norm=l3", "--adv_per=word", "--adv_unit=metres"])
def test_the_parser_knows_the_choices(flag, capsys):
    with pytest.raises(SystemExit):
        parse("--adv", "fgm", "--adv_epsilon", "0.1", flag)
    assert "invalid choice" in capsys.readouterr().err


def test_bad_numbers_set_later_are_refused_when_training_begins(tmp_path):
    trainer = build(tmp_path, adv="pgd")
    trainer.args.adv_steps = -1
    with pytest.raises(UserError, match="steps"):
        trainer.train()


def test_plain_arguments_and_a_method(tmp_path):
    args = TrainingArguments(
        str(tmp_path), use_cpu=True, max_steps=1, report_to="none", disable_tqdm=True
    )
    trainer = build(tmp_path)  # for its model and rows
    plain = AdversarialTrainer(
        model=trainer.model,
        args=args,
        train_dataset=trainer.train_dataset,
        method=FGM(L2Ball(0.5)),
    )
    plain.train()
    assert "adv_loss" not in args.to_dict()
    assert plain._schedule == WarmUp(FGM(L2Ball(0.5)), 0, 0)


def test_plain_arguments_without_a_method_are_refused(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    model = build(tmp_path).model
    Trainer(model=model, args=args)  # the arguments themselves are fine
    with pytest.raises(UserError, match="--adv NAME"):
        AdversarialTrainer(model=model, args=args)
