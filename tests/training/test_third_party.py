"""A method of another package: ten lines, and `--adv mine --adv_strength 0.3` trains with it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import pytest

from nlp_adv.methods import METHODS, build, registry

DIST_INFO = "mine_package-1.0.dist-info"

METHOD = '''
from dataclasses import dataclass
from typing import ClassVar

from nlp_adv import register
from nlp_adv.methods import StepReport
from nlp_adv.perturbation import full_pass

{decorator}
@dataclass(frozen=True)
class Mine:
    """Every word is made larger.

    Args:
        strength: how much larger; 0 is ordinary training.
    """

    strength: float = 0.1
    name: ClassVar[str] = "mine"
    passes: ClassVar[int] = 1
    inner_passes: ClassVar[int] = 0

    def step(self, objective):
        loss = full_pass(objective, self.strength * objective.x * objective.mask).loss
        return StepReport(loss, adversarial=loss)

    @classmethod
    def preset(cls):
        return cls()
'''

SCRIPT = """
import json, sys, torch
{method}
sys.path[:0] = [{tests!r}, {training!r}]
from transformers import HfArgumentParser
from models import tiny
from tiny_training import build, logged, weights, distance
from nlp_adv import AdversarialTrainer, AdversarialTrainingArguments
from tiny_training import rows

parser = HfArgumentParser(AdversarialTrainingArguments)

def run(folder, *words):
    (args,) = parser.parse_args_into_dataclasses(
        ["--output_dir", folder, "--use_cpu", "--max_steps", "2", "--logging_steps", "1",
         "--report_to", "none", "--disable_tqdm", "true", "--save_strategy", "no", *words]
    )
    trainer = AdversarialTrainer(model=tiny("bert"), args=args, train_dataset=rows())
    trainer.train()
    trainer.save_model()
    return trainer

folder = sys.argv[1]
given = run(folder, "--adv", "mine", "--adv_strength", "0.3")
preset = run(folder + "-preset", "--adv", "mine")
none = run(folder + "-none", "--adv", "none")
zero = run(folder + "-zero", "--adv", "mine", "--adv_strength", "0")
try:
    run(folder + "-other", "--adv", "fgm", "--adv_strength", "0.3")
    refused = None
except Exception as error:
    refused = [type(error).__name__, str(error)]
(action,) = [action for action in parser._actions if action.dest == "adv_strength"]
(adv,) = [action for action in parser._actions if action.dest == "adv"]
print(json.dumps({{
    "given": given.args.adversarial_schedule().method.strength,
    "preset": preset.args.adversarial_schedule().method.strength,
    "apart": [distance(weights(given), weights(other)) for other in (preset, none)],
    "zero": distance(weights(zero), weights(none)),
    "adv_loss": logged(given, "adv_loss"),
    "refused": refused,
    "help": [action.help, adv.help],
}}))
"""


def environment(*folders: Path) -> dict[str, str]:
    path = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def python(*argv: str, folder: Path, **options) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, *argv],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def test_a_method_registered_before_the_flags_are_made(tmp_path):
    training = Path(__file__).parent
    script = SCRIPT.format(
        method=METHOD.format(decorator="@register"),
        tests=str(training.parent),
        training=str(training),
    )
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    printed = tmp_path / "printed"
    given = tmp_path / "script.py", [str(tmp_path / "out")], printed
    assert forked.code_of(forked.script, *given) == 0
    found = json.loads(printed.read_text(encoding="utf-8").splitlines()[-1])
    assert (found["given"], found["preset"]) == (0.3, 0.1)
    assert min(found["apart"]) > 1e-5
    assert found["zero"] <= 1e-12
    assert len(found["adv_loss"]) == 2
    assert found["refused"] == [
        "UserError",
        "--adv fgm: fgm has no strength; its settings are: epsilon, norm, per, unit, clean_weight.",
    ]
    about_strength, about_adv = found["help"]
    assert about_strength == "mine: how much larger."
    assert about_adv.endswith(", mine.")
    saved = json.loads((tmp_path / "out" / "adversarial_config.json").read_text("utf-8"))
    assert (saved["method"], saved["strength"]) == ("mine", 0.3)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder on the path that holds an installed distribution with the method."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "mine_package.py").write_text(METHOD.format(decorator=""), encoding="utf-8")
    info = folder / DIST_INFO
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nlp_adv.methods]\nmine = mine_package:Mine\n")
    return folder


TINY_DEMO = "--max_train_samples 64 --max_eval_samples 32 --max_steps 4 --compare_plain false"


@pytest.mark.slow
def test_a_method_of_an_installed_package_in_the_command(tmp_path, installed):
    words = f"train --adv mine --adv_strength 0.3 {TINY_DEMO} --output_dir out"
    command = ["-m", "nlp_adv.cli.main", *words.split()]
    done = python(*command, folder=tmp_path, env=environment(installed))
    saved = json.loads((tmp_path / "out" / "adversarial_config.json").read_text("utf-8"))
    assert (saved["method"], saved["strength"]) == ("mine", 0.3)
    assert "mine" in done.stdout


def test_a_method_of_an_installed_package_is_found(monkeypatch, installed):
    monkeypatch.syspath_prepend(installed)
    monkeypatch.setattr(registry, "_others", {})
    monkeypatch.setattr(registry, "_entry_points_read", False)
    found = registry.all_methods()
    assert list(found) == [*METHODS, "mine"]
    assert build("mine", strength=0.2) == found["mine"](0.2)
    monkeypatch.delitem(sys.modules, "mine_package")


BROKEN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Mine:
    {body}
"""


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("strength: float = 0.1", "Mine is not a training method: it lacks step, preset, passes"),
        (
            "name = 'pgd'; step = preset = print; passes = inner_passes = 1",
            "There is a method 'pgd' already",
        ),
    ],
    ids=["no method", "taken name"],
)
def test_an_installed_package_that_does_not_fit_says_so(
    tmp_path, monkeypatch, installed, body, named
):
    (tmp_path / "mine_package.py").write_text(BROKEN.format(body=body), encoding="utf-8")
    shutil.copytree(installed / DIST_INFO, tmp_path / DIST_INFO)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_package", raising=False)
    monkeypatch.setattr(registry, "_entry_points_read", False)
    with pytest.raises(ValueError, match=named):
        registry.all_methods()
    monkeypatch.delitem(sys.modules, "mine_package")
