"""Recipes: checked whole before anything is run, and kept inside their output folder."""

import pytest
import yaml
from commands import BRIEF, Run, snapshot

from nlp_adv.cli.main import main
from nlp_adv.errors import UserError
from nlp_adv.experiments.recipe import read_recipe

RECIPE = {
    "title": "Tiny",
    "train": {**BRIEF, "use_cpu": True, "max_steps": 1},
    "attack": {"attacks": ["deepwordbug"], "max_examples": 2, "epsilons": 0.05, "checks": False},
    "methods": {"none": {"adv": "none"}, "fgm": {"adv": "fgm"}},
    "seeds": [0],
}


@pytest.fixture
def recipe(work, files):
    """Writes a recipe with some changes, and returns its path."""

    def write(**changes):
        content = {**RECIPE, "train": {**RECIPE["train"], **files}, **changes}
        path = work / "tiny.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        return path

    return write


def compare(capsys, *argv) -> Run:
    code = main(["compare", *map(str, argv)])
    captured = capsys.readouterr()
    return Run(code, captured.out, captured.err)


def refused_untouched(capsys, work, path, *words, more=()) -> None:
    before = snapshot(work)
    run = compare(capsys, path, "--output_dir", "out/here", *more)
    assert snapshot(work) == before
    assert run.code == 2, run
    last = run.err.strip().splitlines()[-1]
    assert last.startswith("nlp-adv compare: error: ")
    for word in words:
        assert word in last, last


LEAVING = [
    "../../esc",
    "..",
    ".",
    "",
    " ",
    "a/b",
    "a/../../../b",
    "/tmp/absolute",
    "\\\\server\\share",
    "..\\..\\esc",
    "C:esc",
    "C:\\esc",
    "a\0b",
    "a\nb",
    "\x7f",
    "~root",
    "-flag",
    ".hidden",
    "ends.",
    "ends ",
    "NUL",
    "com1",
    "aux.txt",
    "a／b",  # fullwidth solidus
    "．．／a",
    "a⁄b",
    "‥",  # two dot leader
    "…x",
    "a\u202eb",  # right-to-left override
    "a\u200bb",  # zero width space
    "a\u2028b",
    "x" * 300,
    "é" * 150,
]


@pytest.mark.fault("D3")
class TestNames:
    @pytest.mark.parametrize("name", LEAVING, ids=ascii)
    def test_names_that_are_paths_are_refused(self, recipe, name):
        path = recipe(methods={name: {"adv": "none"}})
        with pytest.raises(UserError, match="name") as caught:
            read_recipe(path, {})
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", [None, True, 3, 0.5])
    def test_names_that_are_no_text_are_refused(self, recipe, name):
        with pytest.raises(UserError, match="put it in quotes"):
            read_recipe(recipe(methods={name: {"adv": "none"}}), {})

    @pytest.mark.parametrize(
        "name", ["freelb++", "FreeLB, 3 steps", "ε = 0.1", "обычное", "普通", "a.b", "v1.0-x"]
    )
    def test_ordinary_names_are_fine(self, recipe, name):
        assert list(read_recipe(recipe(methods={name: {"adv": "none"}}), {}).methods) == [name]

    @pytest.mark.parametrize("pair", [("fgm", "FGM"), ("\u00e9", "e\u0301"), ("ß", "ss")])
    def test_names_that_some_systems_take_for_one(self, recipe, pair):
        with pytest.raises(UserError, match="share a folder"):
            read_recipe(recipe(methods={name: {"adv": "none"} for name in pair}), {})

    def test_nothing_outside_is_touched(self, recipe, work, capsys):
        """The folder that 0.4.0 deleted and wrote into."""
        outside = work / "esc-seed0" / "model"
        outside.mkdir(parents=True)
        (outside / "mine.txt").write_text("precious")
        path = recipe(methods={"../../esc": {"adv": "none"}})
        refused_untouched(capsys, work, path, "'../../esc'")

    @pytest.mark.parametrize(
        "key",
        [
            "output_dir",
            "output-dir",
            "output_dir=../../esc",
            "-output_dir",
            "resume_from_checkpoint",
            "seed",
            "seed=3",
            "max_steps --output_dir",
            "",
            3,
            None,
        ],
    )
    @pytest.mark.parametrize("section", ["train", "method"])
    def test_keys_that_say_where_to_write(self, recipe, files, key, section):
        flags = {**RECIPE["train"], **files}
        changes = {"train": flags | {key: "x"}}
        if section == "method":
            changes = {"methods": {"none": {"adv": "none", key: "x"}}}
        with pytest.raises(UserError, match="not in order"):
            read_recipe(recipe(**changes), {})

    def test_the_folder_of_a_cell_is_the_last_word(self, recipe, tmp_path):
        """Whatever the values are, argparse takes the last --output_dir, which is the cell's."""
        path = recipe(methods={"none": {"adv": "none", "run_name": "--output_dir=../../esc"}})
        flags = read_recipe(path, {}).train_flags("none", 0, tmp_path / "cell")
        places = [at for at, word in enumerate(flags) if word.startswith("--output_dir")]
        assert flags[places[-1] + 1] == str(tmp_path / "cell")

    def test_a_link_is_not_deleted_through(self, recipe, work, capsys):
        """A model that was begun is removed; what a link in its place leads to is not."""
        outside = work / "outside"
        outside.mkdir()
        (outside / "mine.txt").write_text("precious")
        (work / "out" / "none-seed0").mkdir(parents=True)
        (work / "out" / "none-seed0" / "model").symlink_to(outside, target_is_directory=True)
        path = recipe(methods={"none": {"adv": "none"}})
        compare(capsys, path, "--output_dir", "out")
        assert (outside / "mine.txt").read_text() == "precious"

    @pytest.mark.parametrize("name", ["...yaml", "..yaml", "-x.yaml"])
    def test_a_recipe_whose_own_name_is_no_folder(self, recipe, work, capsys, name):
        (work / name).write_bytes(recipe().read_bytes())
        before = snapshot(work)
        assert main(["compare", f"./{name}"]) == 2
        assert "--output_dir" in capsys.readouterr().err
        assert snapshot(work) == before


def in_method(**flags):
    """The fault stands in the second cell, so that 0.4.0 trained the first one."""
    return {"methods": {"none": {"adv": "none"}, "other": {"adv": "fgm", **flags}}}


def in_attack(**flags):
    return {"attack": RECIPE["attack"] | flags}


BAD = {
    "a misspelt method": (in_method(adv="fgn"), ["other, seed 0", "fgn"]),
    "a misspelt flag": (in_method(adv_epsilom=0.1), ["other, seed 0", "--adv_epsilom"]),
    "a flag of another method": (in_method(adv_replays=3), ["other, seed 0", "replays"]),
    "an epsilon below 0": (in_method(adv_epsilon=-1), ["other, seed 0", "epsilon"]),
    "an attack that begins too late": (in_method(adv_start_step=5), ["other", "start_step"]),
    "a ramp without a ball": (in_method(adv="rdrop", adv_ramp_steps=1), ["other", "ramp"]),
    "no such file": (in_method(train_file="gone.jsonl"), ["other, seed 0", "gone.jsonl"]),
    "no such model": (in_method(model_name_or_path="./gone"), ["other, seed 0", "gone"]),
    "no such embedding": (in_method(adv_embedding="bert.nothing"), ["other", "bert.nothing"]),
    "no such metric": (in_method(metric_for_best_model="blue"), ["other, seed 0", "blue"]),
    "batches of none": (in_method(per_device_train_batch_size=0), ["other, seed 0"]),
    "no such attack": (in_attack(attacks=["deepwordbag"]), ["deepwordbag"]),
    "no neighbours": (in_attack(attacks=["textfooler"]), ["--neighbours"]),
    "no neighbours there": (in_attack(neighbours="gone.json"), ["gone.json"]),
    "no masked model": (in_attack(attacks=["bae"]), ["--masked_lm"]),
    "no wordnet there": (in_attack(attacks=["pwws"], wordnet="gone"), ["gone"]),
    "no such protocol": (in_attack(protocol="defualt"), ["defualt"]),
    "no encoder": (in_attack(protocol="textfooler2020"), ["textfooler2020"]),
    "no such texts": (in_attack(test_file="gone.jsonl"), ["gone.jsonl"]),
    "no such flag of an attack": (in_attack(atacks=["static"]), ["--atacks"]),
    "a control before its model": (
        {"methods": {"x": {"of": "none", "logits_times": 2}, "none": {"adv": "none"}}},
        ["x, seed 0", "none"],
    ),
    "a seed twice": ({"seeds": [1, 2, 1]}, ["seed 1", "twice"]),
    "a seed below 0": ({"seeds": [-1]}, ["-1"]),
    "seeds as text": ({"seeds": "12"}, ["list"]),
    "a list of methods": ({"methods": ["none"]}, ["not in order"]),
    "a list of flags": ({"train": ["adv"]}, ["not in order"]),
}


@pytest.mark.fault("U4")
class TestBeforeTheFirstCell:
    @pytest.mark.parametrize("case", BAD)
    def test_nothing_is_trained(self, recipe, work, capsys, case):
        changes, words = BAD[case]
        refused_untouched(capsys, work, recipe(**changes), *words)

    def test_seeds_of_the_command_line(self, recipe, work, capsys):
        refused_untouched(capsys, work, recipe(), "twice", more=["--seeds", "3", "3"])

    def test_places_of_the_command_line(self, recipe, work, capsys):
        more = ["--resume_from_checkpoint", "last"]
        refused_untouched(capsys, work, recipe(), "resume_from_checkpoint", more=more)

    @pytest.mark.parametrize(
        "text",
        [
            "title: a\ntitle: b\nseeds: [0]\nmethods: {none: {adv: none}}",
            "title: a\nseeds: [0]\nmethods:\n  none: {adv: none}\n  none: {adv: fgm}",
            "title: a\nseeds: [0]\nmethods: {none: {adv: none}}\ntrain: {a: 1, a: 2}",
            'title: a\nseeds: [0]\nmethods: {none: {adv: none}}\ntrain: {a: 1, "a": 2}',
            "title: a\nseeds: [0]\nmethods: {none: {adv: none, adv_steps: 1, adv-steps: 2}}",
        ],
    )
    def test_a_key_twice(self, work, text):
        (work / "twice.yaml").write_text(text)
        with pytest.raises(UserError, match="twice") as caught:
            read_recipe(work / "twice.yaml", {})
        assert "\n" not in str(caught.value)

    def test_a_merged_key_may_be_given_again(self, work):
        text = (
            "title: a\nseeds: [0]\nmethods:\n  one: &one {adv: fgm, adv_epsilon: 1}\n"
            "  two: {<<: *one, adv_epsilon: 2}"
        )
        (work / "merged.yaml").write_text(text)
        methods = read_recipe(work / "merged.yaml", {}).methods
        assert methods["two"] == {"adv": "fgm", "adv_epsilon": 2}

    @pytest.mark.parametrize("text", ["[" * 5000, "a: &a [*a", "\t- x", "a: !!python/object:x {}"])
    def test_what_is_no_yaml(self, work, text):
        (work / "bad.yaml").write_text(text)
        with pytest.raises(UserError, match=r"bad\.yaml"):
            read_recipe(work / "bad.yaml", {})
