"""Every bad input is answered in one sentence with exit code 2, and leaves nothing behind."""

import contextlib
import io
import json
import os
import re
from pathlib import Path

import numpy
import pytest
import torch
from bad_inputs import CASES, FILES, GOOD, ROWS, idx
from commands import Run, snapshot, write
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
    ViTImageProcessor,
)

from nlp_adv.cli.main import main
from nlp_adv.data.image_demo import small_resnet
from nlp_adv.data.text_demo import demo_tokenizer

# What may be said before the sentence, in lines of their own.
NOTES = ("Note: ", "Warning: ", "Attacking ", "Training with ", "===", "nlp-adv train --", "ε = ")


@pytest.fixture(scope="session")
def given(tmp_path_factory) -> dict[str, str]:
    """Good models, data and results, by the names that the table calls them."""
    folder = tmp_path_factory.mktemp("given")
    places = {name: folder / name for name in ("model", "victim", "short", "images", "digits")}
    tokenizer = demo_tokenizer([row["text"] for row in ROWS])
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    size |= {"intermediate_size": 32, "vocab_size": len(tokenizer)}
    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(BertConfig(**size)).save_pretrained(places["model"])
        victim = BertForSequenceClassification(BertConfig(**size, **names))
        victim.save_pretrained(places["victim"])
        short = BertConfig(**size, max_position_embeddings=4)
        BertForSequenceClassification(short).save_pretrained(places["short"])
        small_resnet(2, 1, 0).save_pretrained(places["images"])
    for name in ("model", "victim", "short"):
        tokenizer.save_pretrained(places[name])
    processor = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])
    processor.save_pretrained(places["images"])
    larger = demo_tokenizer([row["text"] for row in ROWS] + ["many more words than before"])
    larger.save_pretrained(folder / "large")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, unk_token=tokenizer.unk_token
    ).save_pretrained(folder / "nopad")
    write_digits(places["digits"])
    found = {name: str(place) for name, place in places.items()}
    found |= {"large": str(folder / "large"), "nopad": str(folder / "nopad")}
    found |= {name: write(folder / f"{name}.jsonl", ROWS) for name in ("train", "dev")}
    found["evaluation"] = str(folder / "evaluation")
    found["recipe"] = str(folder / "recipe.yaml")
    settings = {"model_name_or_path": found["model"], "train_file": found["train"]}
    settings |= {"validation_file": found["dev"], "max_steps": 1, "use_cpu": True}
    content = {"title": "Tiny", "train": settings, "attack": {"test_file": found["dev"]}}
    content |= {"methods": {"none": {"adv": "none"}}, "seeds": [0]}
    Path(found["recipe"]).write_text(json.dumps(content))
    argv = ["--model_name_or_path", found["victim"], "--test_file", found["dev"]]
    done = call("attack", *argv, "--output_dir", found["evaluation"], "--device", "cpu")
    assert done.code == 0, done.err
    return found


def write_digits(folder: Path) -> None:
    """48 grey images of 8 × 8 in two classes, and 8 to test on."""
    folder.mkdir()
    for split, count in (("train", 48), ("t10k", 8)):
        pixels = numpy.random.default_rng(0).integers(0, 255, (count, 8, 8), numpy.uint8)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(
            idx(count, 8, 8, values=pixels.tobytes())
        )
        labels = bytes(n % 2 for n in range(count))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(count, values=labels))


def call(*argv: str) -> Run:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    return Run(code, out.getvalue(), err.getvalue())


def command_line(case: str, more: str, given: dict[str, str]) -> list[str]:
    """The words that are typed."""
    first, _, second = case.partition(" ")
    command = second if first == "bare" and second else first
    command = {"demo": "train", "bare": "train"}.get(command, command)
    words = [*GOOD.get(case, "").split(), *more.split()]
    return [command, *(filled(word, given) for word in words)]


def filled(word: str, given: dict[str, str]) -> str:
    """A name in braces as what it stands for."""
    return given.get(word[1:-1], word) if word[:1] == "{" else word


@pytest.mark.fault("D8")
@pytest.mark.fault("E5")
@pytest.mark.fault("U10")
@pytest.mark.parametrize(("case", "more", "says"), CASES, ids=lambda part: part[-60:])
def test_a_bad_input(given, work, case, more, says):
    for word in re.sub("[=/:]", " ", more).split():
        if word in FILES:
            FILES[word](work / word, given)
    before = snapshot(work)
    command, *argv = command_line(case, more, given)
    run = call(command, *argv)
    assert run.code == 2, run
    assert run.out == ""
    *notes, sentence = [line for line in run.err.splitlines() if line.strip()]
    assert sentence.startswith(f"nlp-adv {command}: error: "), sentence
    assert filled(says, given) in sentence, sentence
    assert sentence.endswith((".", "?", "…")), sentence
    assert all(note.startswith(NOTES) or "%|" in note for note in notes), notes
    assert "Traceback" not in run.err
    assert snapshot(work) == before


def test_the_table_is_long_and_about_all_commands():
    assert len(CASES) >= 120
    assert {case for case, _, _ in CASES} == {*GOOD} | {
        f"bare {command}" for command in ("attack", "evaluate", "report", "compare")
    }


def test_what_is_good_about_the_lines_is_good(given, work):
    """Each case is refused for what is wrong about it: without that it runs."""
    for case in ("train", "attack", "report"):
        run = call(*command_line(case, f"--output_dir {case}", given))
        assert run.code == 0, run.err
        assert os.listdir(work / case)
