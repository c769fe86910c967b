"""Every flag of every command of version 0.5 is still there, and `--help` can be read."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from transformers import TrainingArguments

from nlp_adv.cli.flags import by_name
from nlp_adv.cli.main import COMMANDS as ALL
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
        assert all("TrainingArguments" in title for title in titles[-10:-1])
        assert titles[-1] == "This list"
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
        lines = shown("train", capsys).splitlines()
        flags = sum(line.startswith("  --") for line in lines)
        assert len(lines) < 2.3 * flags

    def test_the_trainers_flags_stand_by_theme(self, capsys):
        text = shown("train", capsys)
        sections = re.findall(r"^The Trainer's own.*: (.*):$((?:\n .*)*)", text, re.MULTILINE)
        of = dict(sections)
        assert "--learning_rate" in of["optimizer and learning rate"]
        assert "--save_steps" in of["checkpoints and the best model"]
        assert "--push_to_hub" in of["the Hub"]
        assert "--num_train_epochs" in of["length and batches"]

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_flag_has_a_sentence(self, command, capsys):
        text = shown(command, capsys)
        for entry in re.split(r"\n(?=  -)", text)[1:]:
            said = entry.split("\n\n")[0].rstrip()
            assert said.endswith("."), said

    @pytest.mark.parametrize(
        ("argv", "loaded"),
        [
            (["--help"], set()),
            (["compare", "--help"], set()),
            (["report", "--help"], set()),
            (["resources", "--help"], set()),
            (["attack", "--help"], {"torch", "transformers"}),
            (["evaluate", "--modality", "image", "--help"], {"torch", "transformers"}),
        ],
    )
    def test_help_imports_what_it_needs(self, argv, loaded):
        heavy = {"torch", "datasets", "sklearn", "scipy.stats"}
        heavy |= {"transformers", "transformers.training_args", "transformers.modeling_utils"}
        code = f"""
import sys
from nlp_adv.cli.main import main
try:
    main({argv!r})
finally:
    print(sorted({heavy!r} & set(sys.modules)))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == str(sorted(loaded)), done.stderr

    def test_the_first_help_names_the_commands_and_the_nouns_on_one_screen(self, capsys):
        assert main(["--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        first = [line.split()[0] for line in lines if line.startswith("  ")]
        assert first[: len(ALL)] == list(ALL)
        nouns = ["site", "ball", "method", "attack", "protocol", "record", "check"]
        assert first[len(ALL) :] == nouns
        assert len(lines) <= 40
        assert max(map(len, lines)) <= 100


class TestNearest:
    @pytest.mark.parametrize(
        ("argv", "near"),
        [
            (["trian"], "train"),
            (["attack", "--atacks", "pwws"], "--attacks"),
            (["train", "--adv", "frelb"], "freelb"),
            (["train", "--adv", "pgd", "--adv_norm", "lin"], "linf"),
            (["attack", "--model_name_or_path=m", "--test_file=f", "--attacks=textfoler"],
             "textfooler"),
            (["attack", "--modality=image", "--model_name_or_path=m", "--dataset_name=f",
              "--attacks=deepfol"], "deepfool"),
            (["report", "a", "--output_dir", "b", "--leader"], "--leaderboard"),
        ],
    )  # fmt: skip
    def test_what_is_unknown_names_what_may_be_meant(self, argv, near, capsys):
        assert main(argv) == 2
        said = capsys.readouterr().err
        assert f"did you mean {near}" in said
        assert len(said.splitlines()) == 1

    def test_what_is_like_nothing_lists_what_there_is(self, capsys):
        assert main(["train", "--adv", "zzzz"]) == 2
        said = capsys.readouterr().err
        assert "did you mean" not in said
        assert "freelb" in said


def test_the_last_of_a_repeated_flag_wins_with_its_own_values():
    words = "recipe --seeds 1 2 --lr=3 --seeds 4 5 --max-steps 6 --flag"
    assert by_name(words.split()) == {
        "": ["recipe"], "seeds": ["4", "5"], "lr": ["3"], "max_steps": ["6"], "flag": []
    }  # fmt: skip
