"""Every `nlp-adv …` of the README and of docs/ is a command: read by the real parsers, some run."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from commands import BRIEF, SPLITS, flags, typed, write
from pages import PAGES, ROOT, blocks, commands
from transformers import ResNetConfig

from nlp_adv.cli import attack, compare, evaluations, report_command, resources
from nlp_adv.cli.arguments import parse
from nlp_adv.cli.main import COMMANDS
from nlp_adv.cli.parser import FlagParser
from nlp_adv.cli.settings import flags_of
from nlp_adv.cli.sweep_request import SweepRequest
from nlp_adv.experiments.recipe import read_recipe
from nlp_adv.methods import METHODS
from nlp_adv.run.arguments import RunArguments
from nlp_adv.run.words import own_words

sys.path.append(str(ROOT / "docs"))
import method_pages

ALL = [(page, words) for page in PAGES for words in commands(page)]
ALL += [(name, shlex.split(method_pages.command(name).replace("\\\n", ""))[1:]) for name in METHODS]
SHELL = {"$method": ["freelb"], "$space": ["learning_rate=3e-5:3e-4", "adv_epsilon=0.01:0.1"]}


@pytest.fixture
def place(work, monkeypatch):
    """A folder with the files of flags that the pages name, and the recipes."""
    (work / "recipes").symlink_to(ROOT / "recipes")
    (work / "run.yaml").write_text(yaml.safe_dump({"adv": "fgm"}))
    (work / "runs" / "sweep").mkdir(parents=True)
    (work / "runs" / "sweep" / "best.json").write_text(json.dumps({"adv": "fgm"}))
    images = ResNetConfig(architectures=["ResNetForImageClassification"])
    images.save_pretrained(work / "runs" / "pgd")
    (own,) = blocks("docs/howto/recipes.md", "yaml")
    (work / "recipe.yaml").write_text(own)
    return work


def read(words, monkeypatch) -> object:
    """What a command line asks for, by the parser of its command; nothing is run."""
    name, *rest = words
    assert name in COMMANDS
    rest = [one for word in rest for one in SHELL.get(word, [word])]
    if name == "train":
        return parse(rest)
    if name == "sweep":
        return SweepRequest(flags_of(rest))
    if name in ("attack", "evaluate", "augment"):
        monkeypatch.setattr(attack, "_WANTED", {})  # a page may leave out what it said before
        return attack.read(name, rest)
    if name == "compare":
        options, overrides = compare._parse(rest)
        return read_recipe(Path(options.recipe), overrides, {"wordnet", "neighbours"})
    if name == "report":
        seen = []
        monkeypatch.setattr(evaluations, "report", lambda options, command: seen.append(options))
        report_command.main(rest)
        return seen[0]
    if name == "resources":
        seen = []
        monkeypatch.setattr(resources, "_get", lambda one, source, place: seen.append(one))
        monkeypatch.setattr(resources, "_listed", lambda place: seen.append(place))
        resources.main(rest)
        return seen[0]
    at = own_words(rest)
    assert rest[at:]  # a script, a module or a command
    (given,), unknown = FlagParser((RunArguments,)).read(flags_of(rest[:at]))
    assert unknown == []
    return given


@pytest.mark.parametrize(
    ("page", "words"), ALL, ids=[f"{page}:{' '.join(words)[:40]}" for page, words in ALL]
)
def test_a_command_of_a_page_is_read(page, words, place, monkeypatch):
    assert read(words, monkeypatch) is not None


def test_every_command_is_shown():
    assert {words[0] for _, words in ALL} >= {"train", "attack", "evaluate", "compare", "sweep"}
    assert {words[0] for _, words in ALL} >= {"report", "run"}
    assert len(ALL) > 40


def test_what_is_no_flag_is_refused(place, monkeypatch):
    with pytest.raises(Exception, match="adv_epsilom"):
        read(["train", "--adv", "fgm", "--adv_epsilom", "1"], monkeypatch)


RUN = [
    ("docs/start/text.md", "train --model_name_or_path MODEL --train_file"),
    ("docs/attacks/index.md", "attack --model_name_or_path MODEL"),
    ("README.md", "evaluate --model_name_or_path runs/sst2"),
]


@pytest.mark.parametrize(("page", "start"), RUN, ids=[start.split()[0] for _, start in RUN])
def test_a_command_runs(page, start, files, reader, place):
    """On a tiny model and tiny data under the names that the page uses."""
    (words,) = (one for one in commands(page) if " ".join(one).startswith(start))
    shutil.copytree(files["model_name_or_path"], "MODEL")
    if words[0] != "train":
        shutil.rmtree("MODEL")
        shutil.copytree(reader, "MODEL")
        shutil.copytree(reader, "runs/sst2")
    (place / "FOLDER").mkdir()
    for split, rows in SPLITS.items():
        write(place / "FOLDER" / f"{split}.jsonl", rows)
        write(place / f"{split.replace('validation', 'dev')}.jsonl", rows)
    brief = {**BRIEF, "use_cpu": True, "output_dir": "out"} if words[0] == "train" else {}
    few = {"embedding_steps": 2, "epsilons": 0.1, "checks": False}
    run = typed(*words, *flags(brief if brief else few if words[0] == "evaluate" else {}))
    assert run.code == 0, run.err


def test_a_recipe_of_the_page_is_checked(files, place):
    """`compare --dry_run` of the page's recipe, on tiny data."""
    shutil.copytree(files["model_name_or_path"], "MODEL")
    (place / "FOLDER").mkdir()
    for split, rows in SPLITS.items():
        write(place / "FOLDER" / f"{split}.jsonl", rows)
    words = next(one for one in commands("docs/howto/recipes.md") if "--dry_run" in one)
    run = typed(*words, *flags({"use_cpu": True}))
    assert run.code == 0, run.err
    assert "freelb" in run.out + run.err
