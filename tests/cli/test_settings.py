"""Configuration files: YAML and JSON of flags, anywhere on a command line, under its flags."""

import json

import pytest
from commands import TINY_DEMO, call
from commands import typed as call_plain

from nlp_adv.cli.arguments import parse
from nlp_adv.cli.attack import read
from nlp_adv.cli.modality import modality
from nlp_adv.cli.settings import flags_of
from nlp_adv.cli.sweep_request import SweepRequest
from nlp_adv.errors import UserError

pytestmark = pytest.mark.fault("U10")


def training(*argv: str):
    return parse([*argv, "--output_dir", "out", "--use_cpu"]).training


@pytest.mark.parametrize("name", ["flags.yaml", "flags.yml", "flags.json"])
def test_a_file_is_the_command_line_that_it_stands_for(work, name):
    content = {"adv": "fgm", "adv_epsilon": 1e-2, "learning_rate": 3e-4, "bf16": True, "seed": 7}
    (work / name).write_text(json.dumps(content))  # JSON is YAML
    assert (read := training(name)).learning_rate == 3e-4
    assert (read.adv, read.adv_epsilon, read.bf16, read.seed) == ("fgm", 1e-2, True, 7)


@pytest.mark.parametrize(
    "argv",
    [
        ["flags.yaml", "--learning_rate", "1e-4"],
        ["--learning_rate", "1e-4", "flags.yaml"],
        ["--learning_rate=1e-4", "flags.yaml", "--adv", "fgm"],
        ["--adv", "fgm", "flags.yaml", "--learning_rate", "1e-4"],
        ["--bf16", "flags.yaml", "--learning_rate", "1e-4"],
        ["--attack_epsilons", "0.1", "0.2", "flags.yaml", "--learning_rate", "1e-4"],
        ["--config", "flags.yaml", "--learning_rate", "1e-4"],
        ["--learning_rate", "1e-4", "--config=flags.yaml"],
    ],
    ids=" ".join,
)
def test_flags_win_over_the_file_wherever_it_stands(work, argv):
    (work / "flags.yaml").write_text("learning_rate: 1.0\nweight_decay: 0.25\n")
    read = training(*argv)
    assert (read.learning_rate, read.weight_decay) == (1e-4, 0.25)


def test_a_file_that_is_a_flags_value_is_none_of_flags(work):
    words = ["--train_file", "rows.json", "--protocol", "mine.json", "--deepspeed", "zero.json"]
    assert flags_of(words) == words


@pytest.mark.parametrize(
    ("written", "flag", "value"),
    [
        ("learning_rate: 1e-4", "learning_rate", 1e-4),  # text to YAML 1.1
        ('learning_rate: "1e-4"', "learning_rate", 1e-4),
        ("learning_rate: 0.0001", "learning_rate", 1e-4),
        ("bf16: yes", "bf16", True),
        ("bf16: on", "bf16", True),
        ("bf16: 'true'", "bf16", True),
        ("bf16: off", "bf16", False),
        ("save_strategy: no", "save_strategy", "no"),  # false to YAML 1.1
        ("adv: none", "adv", "none"),
        ("adv_epsilon: null", "adv_epsilon", None),
        ("adv_epsilon: ~", "adv_epsilon", None),
        ("adv_epsilon:", "adv_epsilon", None),
        ("run-name: mine", "run_name", "mine"),
        ("run_name: -x", "run_name", "-x"),
        ("run_name: ''", "run_name", ""),
        ("run_name: 2020-01-01", "run_name", "2020-01-01"),
        ("run_name: other.yaml", "run_name", "other.yaml"),
        ("seed: 012", "seed", 12),  # ten to YAML 1.1
        ("lr_scheduler_kwargs: {num_cycles: 2}", "lr_scheduler_kwargs", {"num_cycles": 2}),
        ("report_to: [none]", "report_to", []),
        ("report_to: none", "report_to", []),
        ("run_name: &name none\nadv: *name", "adv", "none"),
    ],
)
def test_yaml_is_read_as_it_is_written(work, written, flag, value):
    (work / "flags.yaml").write_text(written + "\n")
    assert getattr(training("flags.yaml"), flag) == value


def test_lists_are_several_values(work):
    (work / "flags.yaml").write_text("attack_epsilons:\n  - 0.1\n  - 2e-1\n")
    assert parse(["flags.yaml", "--output_dir", "o"]).report.attack_epsilons == [
        0.1,
        0.2,
    ]


def test_every_command_that_takes_flags_takes_a_file(work):
    (work / "attack.yaml").write_text(
        "model_name_or_path: m\ntest_file: t.json\noutput_dir: o\nattacks: [pwws]\nseed: 3\n"
    )
    asked = read("attack", ["attack.yaml", "--seed", "4"])
    found = (asked.victim.test_file, asked.attack.attacks, asked.attack.seed)
    assert found == ("t.json", ["pwws"], 4)
    (work / "images.yaml").write_text(
        "modality: image\nmodel_name_or_path: m\ndataset_name: d\noutput_dir: o\n"
        "epsilon: 8/255\nepsilons: [1/255, 0.5]\n"
    )
    assert modality(["images.yaml"]) == "image"
    attack = read("attack", ["images.yaml", "--norm", "l2", "--attacks", "pgd"]).attack
    assert (attack.epsilon, attack.norm) == (8 / 255, "l2")
    assert attack.epsilons == [1 / 255, 0.5]
    (work / "train.yaml").write_text("modality: image\nattack_epsilons: 8/255\noutput_dir: o\n")
    report = parse(["train.yaml", "--attack_steps", "3"]).report
    assert (report.attack_epsilons, report.attack_steps) == ([8 / 255], 3)
    (work / "sweep.yaml").write_text("space: [adv_epsilon=0.1:0.2]\nadv: fgm\ntrials: 3\n")
    request = SweepRequest(flags_of(["sweep.yaml", "--trials", "2"]))
    assert (request.total, [str(one) for one in request.space]) == (2, ["adv_epsilon=0.1:0.2:log"])


def test_numbers_may_be_fractions_and_paths_are_none():
    words = ["--adv", "pgd", "--adv_epsilon=8/255", "--attack_epsilons", "1/4", "0.5"]
    read = parse([*words, "--output_dir", "runs/8", "--run_name", "1/2", "--use_cpu"])
    assert read.training.adv_epsilon == 8 / 255
    assert read.report.attack_epsilons == [0.25, 0.5]
    assert (read.training.output_dir, read.training.run_name) == ("runs/8", "1/2")
    with pytest.raises(UserError, match=r"--attack_epsilons: invalid float value: '1/x'"):
        parse(["--attack_epsilons", "1/x"])


def test_a_run_from_a_file_is_the_run_from_flags(work):
    (work / "flags.yaml").write_text("".join(f"{k}: {v}\n" for k, v in TINY_DEMO.items()))
    run = call("flags.yaml", adv="fgm", compare_plain=False, output_dir="one", num_train_epochs=0.5)
    assert run.code == 0, run.err
    other = TINY_DEMO | {"num_train_epochs": 0.5}
    assert call(**other, adv="fgm", compare_plain=False, output_dir="two").code == 0
    weights = [(work / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_two_files_are_refused(work):
    with pytest.raises(UserError, match=r"a\.yaml and b\.json; give one"):
        flags_of(["a.yaml", "b.json"])


def test_an_unknown_key_is_named(work):
    (work / "flags.yaml").write_text("attackss: [pwws]\n")
    run = call_plain("attack", config="flags.yaml")
    assert run.code == 2
    assert "There is no flag --attackss; did you mean --attacks?" in run.err
