"""Every flag of every command of version 0.5 is still there, and `--help` can be read."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from transformers import TrainingArguments

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
