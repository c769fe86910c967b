"""Every flag of every command of version 0.5 is still there, and `--help` can be read."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from transformers import TrainingArguments

from nlp_adv.cli.flags import by_name
from nlp_adv.cli.main import main

COMMANDS = {
    "train": ["train"],
    "train on images": ["train", "--modality", "image"],
    "attack": ["attack"],
    "attack on images": ["attack", "--modality", "image"],
    "evaluate": ["evaluate"],
    "compare": ["compare"],
    "report": ["report"],
    "sweep": ["sweep"],
}
# Flags of 0.5 that are gone, and what to write instead; the CHANGELOG says it as well.
REMOVED: dict[str, dict[str, str]] = {}
# Commands that also take whatever the installed transformers has in its TrainingArguments.
TRAINING = ("train", "train on images", "sweep")


def flags_of_0_5() -> dict[str, set[str]]:
    """By command, without those of TrainingArguments, which belong to transformers."""
    text = (Path(__file__).parent / "flags_0_5.txt").read_text(encoding="utf-8")
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {command: set(names.split()) for command, _, names in lines}


def shown(command: str, capsys) -> str:
    with pytest.raises(SystemExit):
        main([*COMMANDS[command], "--help"])
    return capsys.readouterr().out


def names_in(text: str) -> set[str]:
    """Flags that stand at the beginning of an entry, with underscores."""
    entries = re.findall(r"^  (-.*?)(?:  |$)", text, flags=re.MULTILINE)
    found = (name for entry in entries for name in re.findall(r"--(\w[\w-]*)", entry))
    return {name.replace("-", "_") for name in found}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_flag_is_lost(command, capsys):
    there = names_in(shown(command, capsys))
    before = flags_of_0_5()[command]
    removed = REMOVED.get(command, {})
    assert before - there == set(removed), "a flag is gone without saying what to write instead"
    if command in TRAINING:
        assert {one.name for one in fields(TrainingArguments)} <= there


@pytest.mark.fault("U12")
class TestHelp:
    def test_the_method_comes_first_and_the_trainers_flags_last(self, capsys):
        text = shown("train", capsys)
        titles = re.findall(r"^(\S.*):$", text, flags=re.MULTILINE)
        assert "method" in titles[0]
        assert "TrainingArguments" in titles[-1]
        flags = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
        assert flags[:3] == ["--adv", "--adv_epsilon", "--adv_norm"]
        assert flags.index("--model_name_or_path") < flags.index("--learning_rate")

    def test_a_flag_says_what_it_is_when_it_is_unset(self, capsys):
        text = " ".join(shown("train", capsys).split())
        assert "None" not in text.partition("The Trainer's own")[0]
        assert re.search(r"--adv_steps INTEGER [^-]* Preset: 3; .*\btavat 2\b", text)
        assert re.search(r"--attack_steps INTEGER [^-]* Default: 20\.", text)

    def test_presets_are_those_of_the_modality(self, capsys):
        text = " ".join(shown("train on images", capsys).split())
        assert re.search(r"--adv_epsilon NUMBER [^-]*(-\S+ [^-]*)* Preset: 0\.0314", text)
        assert "tavat 2" not in text

    def test_a_flag_that_turns_something_off_says_so(self, capsys):
        text = " ".join(shown("attack on images", capsys).split())
        assert "--no_checks Turns --checks off." in text

    def test_it_is_not_longer_than_it_must_be(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "100")
        assert len(shown("train", capsys).splitlines()) < 460

    @pytest.mark.parametrize("command", ["compare", "report"])
    def test_a_short_help_imports_nothing_heavy(self, command):
        code = f"""
import sys
from nlp_adv.cli.main import main
try:
    main([{command!r}, "--help"])
finally:
    print(sorted({{"torch", "transformers", "datasets", "scipy"}} & set(sys.modules)))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_last_of_a_repeated_flag_wins_with_its_own_values():
    words = "recipe --seeds 1 2 --lr=3 --seeds 4 5 --max-steps 6 --flag"
    assert by_name(words.split()) == {
        "": ["recipe"], "seeds": ["4", "5"], "lr": ["3"], "max_steps": ["6"], "flag": []
    }  # fmt: skip
