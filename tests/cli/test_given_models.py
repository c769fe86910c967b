"""Model folders that would be trained on nothing, or that bring code along."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import BRIEF, SPLITS, call, refused, refused_last, refused_without_trace
from commands import typed as attack
from transformers import AutoModelForSequenceClassification, BertConfig

from nlp_adv import UserError
from nlp_adv.cli.arguments import ModelArguments, parse
from nlp_adv.cli.flags import command_line
from nlp_adv.cli.loading import load
from nlp_adv.data.text_demo import demo_tokenizer
from nlp_adv.data.vocabulary import check_vocabulary


def bare(folder: Path, vocabulary: int = 100) -> Path:
    """A model without its tokenizer."""
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        id2label={0: "bad", 1: "good"},
        label2id={"bad": 0, "good": 1},
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.fault("U2")
class TestTokenizersThatKnowNoWords:
    def test_training_without_a_tokenizer(self, work, files):
        given = files | BRIEF | {"model_name_or_path": bare(work / "m"), "output_dir": "out"}
        refused_without_trace(work, given, ["[UNK]", "tokenizer", "--tokenizer_name"])

    def test_attacking_without_one(self, work, files):
        run = attack(
            "attack",
            model_name_or_path=bare(work / "m"),
            test_file=files["test_file"],
            output_dir="out",
        )
        refused_last(run, "[UNK]", "--tokenizer_name")
        assert not (work / "out").exists()

    def test_a_tokenizer_of_another_language(self, work, files, tmp_path):
        other = demo_tokenizer(["это хороший фильм", "это плохой фильм"])
        other.save_pretrained(tmp_path / "other")
        given = files | BRIEF | {"tokenizer_name": tmp_path / "other", "output_dir": "out"}
        refused_without_trace(work, given, ["[UNK]"])

    def test_how_many_words_may_be_unknown(self):
        known = [row["text"] for row in SPLITS["train"]]
        words = sorted({word for text in known for word in text.split()})
        tokenizer = demo_tokenizer(known)
        check_vocabulary(tokenizer, known, "it")
        strange = [f"{chr(0x430 + n // 32)}{chr(0x430 + n % 32)}" for n in range(9 * len(words))]
        check_vocabulary(tokenizer, [*known, *strange], "it")  # nine in ten
        with pytest.raises(UserError, match=f"{9 * len(words) + 1} of {10 * len(words) + 1} "):
            check_vocabulary(tokenizer, [*known, *strange, "яяя"], "it")
        check_vocabulary(tokenizer, ["яяя"], "it")  # of one word nothing can be said

    def test_a_word_of_several_tokens_is_not_one_number(self):
        tokenizer = demo_tokenizer(["a b c d", "abcd dcba"])
        check_vocabulary(tokenizer, ["abdc bacd cabd dacb"], "it")


EVIL = """
import pathlib
pathlib.Path(r'{}').write_text('')
class Config: pass
class Tokenizer: pass
"""


def changed(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def evil(files, work):
    """A model folder with code of its own, and the file that the code would write."""
    folder = work / "evil"
    shutil.copytree(files["model_name_or_path"], folder)
    changed(folder / "config.json", auto_map={"AutoConfig": "evil.Config"}, model_type="evil")
    (folder / "evil.py").write_text(EVIL.format(work / "was_run"))
    return folder, work / "was_run"


@pytest.mark.fault("D11")
class TestForeignCode:
    def test_train(self, evil, work, files):
        folder, trace = evil
        given = files | BRIEF | {"model_name_or_path": folder, "output_dir": "out"}
        refused_without_trace(work, given, ["auto_map", "does not run"])
        assert not trace.exists()

    @pytest.mark.parametrize("command", ["attack", "evaluate"])
    def test_attack_and_evaluate(self, evil, files, work, command):
        folder, trace = evil
        run = attack(
            command,
            model_name_or_path=folder,
            test_file=files["test_file"],
            output_dir="out",
        )
        assert run.code == 2
        assert not trace.exists()
        assert not (work / "out").exists()

    def test_a_tokenizer(self, work, files):
        """One that transformers has itself is taken from there; no other is taken."""
        folder = work / "evil"
        shutil.copytree(files["model_name_or_path"], folder)
        path = folder / "tokenizer_config.json"
        changed(path, auto_map={"AutoTokenizer": ["evil.Tokenizer", None]}, tokenizer_class="Evil")
        (folder / "evil.py").write_text(EVIL.format(work / "was_run"))
        (folder / "tokenizer.json").unlink()
        given = files | BRIEF | {"model_name_or_path": folder, "output_dir": "out"}
        refused_without_trace(work, given, ["tokenizer"])
        assert not (work / "was_run").exists()

    def test_images(self, work):
        (work / "m").mkdir()
        (work / "m" / "evil.py").write_text(EVIL.format(work / "was_run"))
        config = {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}
        (work / "m" / "config.json").write_text(json.dumps(config))
        preprocessor = {"auto_map": {"AutoImageProcessor": "evil.Config"}}
        (work / "m" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        given = {"modality": "image", "model_name_or_path": work / "m", "output_dir": "out"}
        run = call(**given)
        refused(run, "auto_map")
        run = attack("attack", dataset_name=work / "m", **given)
        refused_last(run, "auto_map")
        assert not (work / "was_run").exists()

    def test_code_that_transformers_has_itself_is_taken_from_there(self, work, files):
        folder = work / "bert"
        shutil.copytree(files["model_name_or_path"], folder)
        changed(folder / "config.json", auto_map={"AutoConfig": "evil.Config"})
        given = files | BRIEF | {"model_name_or_path": folder, "output_dir": "out", "max_steps": 1}
        assert call(**given).code == 0

    def test_code_is_run_when_that_is_asked_for(self, evil, files):
        folder, trace = evil
        given = files | BRIEF | {"model_name_or_path": folder, "output_dir": "out"}
        assert call(**given, trust_remote_code=True).code != 0  # it is no configuration
        assert trace.exists()

    @pytest.mark.slow
    @pytest.mark.skipif(os.name != "posix", reason="a terminal")
    def test_nobody_is_asked_on_a_terminal(self, evil, files):
        """With a terminal as its input, transformers asks unless it is told not to."""
        folder, trace = evil
        ours, theirs = pty.openpty()
        command = ["train", "--model_name_or_path", folder, "--train_file", files["train_file"]]
        done = subprocess.run(
            [sys.executable, "-m", "nlp_adv.cli.main", *map(str, command)],
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=folder.parent,
        )
        os.close(ours)
        os.close(theirs)
        assert done.returncode == 2
        assert "[y/N]" not in done.stdout + done.stderr
        assert "auto_map" in done.stderr.splitlines()[-1]
        assert not trace.exists()


@pytest.mark.fault("U12")
class TestFlagsOfRunGlue:
    @pytest.fixture
    def three(self, files, work):
        """A classifier of three classes, of sentences that have two."""
        folder = work / "three"
        shutil.copytree(files["model_name_or_path"], folder)
        config = BertConfig.from_pretrained(folder, num_labels=3)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        return files | BRIEF | {"model_name_or_path": folder, "output_dir": "out", "max_steps": 1}

    def test_a_head_for_other_labels_begins_anew_when_that_is_asked_for(self, three, work):
        refused_without_trace(work, three, ["--ignore_mismatched_sizes"])
        run = call(**three, ignore_mismatched_sizes=True)
        assert run.code == 0, run.err
        assert "tells 3 classes apart and the data has 2: its head begins anew" in run.err

    def test_the_token_is_given_to_the_hub_and_written_nowhere(self, files):
        argv = ["--model_name_or_path", "owner/name", "--train_file", files["train_file"]]
        model = parse([*argv, "--token", "hf_secret", "--output_dir", "o", "--use_cpu"]).model
        asked = []
        kind = SimpleNamespace(from_pretrained=lambda name, **more: asked.append((name, more)))
        load(kind, "model", "owner/name", model.hub("owner/name"))
        ((name, more),) = asked
        assert (name, more["token"], more["trust_remote_code"]) == (
            "owner/name",
            "hf_secret",
            False,
        )
        for words in (
            ["--token", "hf_secret"],
            ["--token=hf_secret"],
            ["--hub-token", "hf_secret"],
        ):
            assert "hf_secret" not in command_line("train", [*argv, *words, "--seed", "1"])

    def test_the_revision_is_the_models_alone(self):
        model = ModelArguments(model_name_or_path="mine", model_revision="v2")
        assert model.hub("mine")["revision"] == "v2"
        assert model.hub("other")["revision"] == "main"
