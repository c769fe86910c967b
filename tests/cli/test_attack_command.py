"""`nlp-adv attack`, `evaluate` and `report`: records, resuming, shards, and what is refused."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import TEXTS, WORDS, Run, refused_last, snapshot, write
from commands import typed as call
from filelock import FileLock
from transformers import AutoTokenizer, BertForSequenceClassification

from nlp_adv.cli.main import main
from nlp_adv.errors import UserError
from nlp_adv.robustness import evaluate_robustness
from nlp_adv.robustness.embedding import embedding_pgd
from nlp_adv.robustness.point_protocols import POINT_PROTOCOLS
from nlp_adv.robustness.records import read_records
from nlp_adv.robustness.white_box import WhiteBox

ATTACKS = ["deepwordbug", "textfooler", "hotflip"]


@pytest.fixture(scope="module")
def given(reader, tmp_path_factory) -> dict[str, str]:
    """A classifier that looks at adjectives, 40 texts and candidates for their words."""
    folder = tmp_path_factory.mktemp("victim")
    adjectives = [word for words in WORDS.values() for word in words]
    table = {word: [other for other in adjectives if other != word] for word in adjectives}
    (folder / "candidates.json").write_text(json.dumps(table))
    return {
        "model_name_or_path": str(reader),
        "test_file": write(folder / "texts.jsonl", TEXTS),
        "neighbours": str(folder / "candidates.json"),
        "attacks": ATTACKS,
    }


@pytest.fixture(scope="module")
def straight(given, tmp_path_factory) -> tuple[Run, Path]:
    folder = tmp_path_factory.mktemp("straight") / "out"
    return call("attack", **given, output_dir=folder), folder


def _exact(record):
    """Without confidences, whose last digits differ where other texts share the batch."""
    return replace(record, confidence=0.0, adversarial_confidence=0.0)


def records(folder: Path):
    return sorted(read_records(folder / "records.jsonl"), key=lambda r: (r.attack, r.id))


def test_an_attack_writes_a_record_for_each_text_and_attack(straight):
    run, folder = straight
    assert run.code == 0, run
    found = records(folder)
    assert {(r.attack, r.id) for r in found} == {(a, n) for a in ATTACKS for n in range(40)}
    assert all(r.found.original == TEXTS[r.id]["text"] for r in found)
    # Each adjective may become any other, so whoever is right at first must fall to textfooler.
    assert {r.outcome for r in found if r.attack == "textfooler"} <= {"wrong", "fooled"}
    assert sum(r.outcome == "fooled" for r in found if r.attack == "textfooler") > 20


def test_attacks_on_the_embeddings_are_named_beside_those_on_words(given, tmp_path):
    """PGD, whose curve the report draws, is there with any of them, and once."""
    settings = {**given, "attacks": ["deepwordbug", "pgd", "auto"], "epsilons": [0.05, 0.5]}
    settings |= {"embedding_steps": 3, "embedding_queries": 20, "max_examples": 12}
    run = call("attack", **settings, checks=False, output_dir=tmp_path / "out")
    assert run.code == 0, run
    found = records(tmp_path / "out")
    radii = {(r.attack, r.epsilon) for r in found}
    points = ("embedding-pgd-l2", "embedding-auto-l2")
    assert radii == {("deepwordbug", None)} | {(a, e) for a in points for e in (0.05, 0.5)}
    fooled = [{r.id for r in found if r.outcome == "fooled" and r.attack == a} for a in points]
    assert len(fooled[1]) >= len(fooled[0]) > 0


def test_a_protocol_of_attacks_on_the_embeddings_is_said_with_its_hash(given, tmp_path):
    """Its numbers are its own, whatever the flags of the others are; alone it runs no other."""
    settings = {**given, "epsilons": 0.5, "embedding_steps": 2, "max_examples": 3}
    settings |= {"attacks": ["auto"], "embedding_protocol": "autoattack2020", "checks": False}
    run = call("attack", **settings, output_dir=tmp_path / "out")
    assert run.code == 0, run
    fixed = POINT_PROTOCOLS["autoattack2020"]
    assert f"the protocol autoattack2020, version 1 ({fixed.hash()})" in run.out
    assert replace(fixed, queries=4999).hash() != fixed.hash() == replace(fixed).hash()
    found = [r for r in records(tmp_path / "out") if r.attack == "embedding-auto-l2"]
    spent = [r.found.gradient_passes for r in found if r.outcome == "fooled"]
    assert len(found) == 3
    assert 0 < max(spent) <= 300


def test_the_report_says_what_the_records_say(straight):
    run, folder = straight
    names = {path.name for path in folder.iterdir()}
    assert {"records.jsonl", "report.html", "report.md", "report.csv", "report.json"} <= names
    stood = sum(r.outcome == "robust" for r in records(folder) if r.attack == "deepwordbug")
    line = next(line for line in run.out.splitlines() if " deepwordbug " in line)
    assert f" {100 * stood / 40:.1f} [" in line


def test_a_killed_run_continues_where_it_stopped(given, straight, tmp_path):
    (tmp_path / "out").mkdir()
    whole = (straight[1] / "records.jsonl").read_bytes().splitlines(keepends=True)
    header = json.loads((straight[1] / "evaluation.json").read_text())
    del header["found"]
    (tmp_path / "out" / "evaluation.json").write_text(json.dumps(header))
    kept = b"".join(whole[:17])
    (tmp_path / "out" / "records.jsonl").write_bytes(kept + whole[17][:30])
    assert call("attack", **given, output_dir=tmp_path / "out").code == 0
    assert (tmp_path / "out" / "records.jsonl").read_bytes().startswith(kept)
    both = (records(tmp_path / "out"), records(straight[1]))
    assert [_exact(r) for r in both[0]] == [_exact(r) for r in both[1]]


def test_a_finished_run_is_not_run_again(given, straight, monkeypatch):
    before = (straight[1] / "records.jsonl").read_bytes()
    monkeypatch.setattr(BertForSequenceClassification, "forward", None)  # whoever calls it fails
    assert call("attack", **given, output_dir=straight[1]).code == 0
    assert (straight[1] / "records.jsonl").read_bytes() == before


def test_shards_together_are_the_straight_run(given, straight, tmp_path):
    folders = [tmp_path / str(part) for part in (1, 2, 3)]
    for part, folder in enumerate(folders, 1):
        assert call("attack", **given, shard=f"{part}/3", output_dir=folder).code == 0
    merged = sorted((r for f in folders for r in records(f)), key=lambda r: (r.attack, r.id))
    assert [_exact(r) for r in merged] == [_exact(r) for r in records(straight[1])]
    argv = [*map(str, folders), "--shards", "--output_dir", str(tmp_path / "all")]
    assert main(["report", *argv]) == 0
    rows = [(f / "report.csv").read_text().splitlines() for f in (tmp_path / "all", straight[1])]
    assert [len(one) for one in rows] == [4, 4]
    tails = [[row.split(",", 1)[1] for row in one] for one in rows]  # all but the model's name
    assert tails[0] == tails[1]


def test_evaluations_under_unequal_protocols_are_not_compared(given, straight, tmp_path):
    other = {**given, "attacks": ["deepwordbug"], "protocol": str(tmp_path / "mine.json")}
    (tmp_path / "mine.json").write_text('{"name": "mine", "max_changed": 0.5}')
    assert call("attack", **other, output_dir=tmp_path / "other").code == 0
    argv = [str(straight[1]), str(tmp_path / "other"), "--output_dir", str(tmp_path / "both")]
    assert main(["report", *argv]) == 2
    assert not (tmp_path / "both").exists()


def test_evaluate_adds_radii_checks_and_clean_accuracy(given, tmp_path):
    settings = {**given, "attacks": ["deepwordbug"], "epsilons": [0.1, 0.3], "max_examples": 30}
    settings |= {"embedding_steps": 3, "check_examples": 12, "train_file": given["test_file"]}
    run = call("evaluate", **settings, output_dir=tmp_path / "out")
    assert run.code == 0, run
    saved = json.loads((tmp_path / "out" / "evaluation.json").read_text())["found"]
    assert saved["clean"][1] == 40
    assert [point[0] for point in saved["curves"][0]["points"]] == [0.0, 0.1, 0.3]
    verdicts = {check["name"]: check["passed"] for check in saved["checks"]}
    assert verdicts["overlap"] is False  # all texts are training texts here
    assert {"large radius", "noise", "query budget (deepwordbug)"} <= verdicts.keys()
    assert len(verdicts) == len(saved["checks"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_name_or_path": None}, ["--model_name_or_path"]),
        ({"test_file": None}, ["--test_file"]),
        ({"output_dir": None}, ["--output_dir"]),
        ({"attacks": ["textfoler"]}, ["textfoler", "textfooler"]),
        ({"neighbours": None, "attacks": ["textfooler"]}, ["--neighbours"]),
        ({"attacks": ["bae"]}, ["--masked_lm"]),
        ({"protocol": "li2022"}, ["li2022", "li2021"]),
        ({"protocol": "li2021"}, ["--encoder"]),
        ({"protocol": "textfooler2020", "encoder": "SELF"}, ["--tagger"]),
        ({"max_examples": 0}, ["max_examples"]),
        ({"target": 5}, ["target"]),
        ({"shard": "3/2"}, ["3/2"]),
        ({"no_such_flag": 1}, ["no_such_flag"]),
        ({"test_file": "nowhere.jsonl"}, ["nowhere.jsonl"]),
        ({"neighbours": "nowhere.json", "attacks": ["textfooler"]}, ["nowhere.json"]),
        ({"device": "nonsense"}, ["nonsense"]),
        ({"segmenter": "os:system"}, ["os:system", "characters, jieba"]),
        ({"segmenter": "jieba"}, ["pip install jieba"]),
    ],
    ids=str,
)
def test_bad_requests_are_refused_in_a_sentence(given, work, change, words):
    settings = {**given, "output_dir": "out", **change}
    settings = {k: given["model_name_or_path"] if v == "SELF" else v for k, v in settings.items()}
    before = snapshot(work)
    run = call("attack", **{k: v for k, v in settings.items() if v is not None})
    assert snapshot(work) == before
    assert run.code == 2, run
    last = run.err.strip().splitlines()[-1]
    assert last.startswith("nlp-adv attack: error: ")
    assert all(word in last for word in words), last


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text": "the end is dull", "label": "mixed"}], ["Row 1", "mixed", "bad, good"]),
        ([{"text": "the end is dull", "label": 2}], ["Row 1", "2 classes"]),
        ([{"text": None, "label": "bad"}, {"text": "x", "label": "bad"}], ["Row 1", "missing"]),
        ([{"words": "the end is dull", "label": "bad"}], ["text_columns"]),
    ],
)
def test_bad_rows_are_named(given, work, rows, words):
    settings = {**given, "test_file": write(work / "rows.jsonl", rows), "output_dir": "out"}
    refused_last(call("attack", **settings), *words)


def test_texts_without_words_are_kept_as_failed(given, work):
    rows = [{"text": text, "label": label} for text in ("...", "[SEP] [PAD]") for label in (0, 1)]
    settings = {**given, "test_file": write(work / "rows.jsonl", rows), "output_dir": "out"}
    assert call("attack", **settings).code == 0
    found = records(work / "out")
    wordless = [r for r in found if r.found.words == 0]
    assert len(wordless) == 2 * len(ATTACKS)
    assert {r.outcome for r in wordless} == {"wrong", "robust"}
    assert all(
        r.found.adversarial == r.found.original and r.found.words_changed == 0 for r in wordless
    )
    assert len(found) == 4 * len(ATTACKS)


# Nothing, white space, a zero-width space and a byte-order mark, and what BERT's tokenizer drops.
BLANK = ["", " ", "\n\t\u00a0", "\u200b\ufeff", "\ufffd\ufffd"]


@pytest.mark.fault("U9")
def test_texts_without_anything_to_read_are_left_out_and_counted(given, work):
    rows = [{"text": text, "label": n % 2} for n, text in enumerate([*BLANK, "the end is dull"])]
    settings = {**given, "test_file": write(work / "rows.jsonl", rows), "epsilons": 0.1}
    settings |= {"checks": False, "embedding_steps": 2, "output_dir": "out"}
    run = call("evaluate", **settings)
    assert run.code == 0, run
    assert {r.id for r in records(work / "out")} == {5}
    assert "5 of 6 texts hold nothing to read (row 1, 2, 3, 4, 5)" in run.out
    saved = json.loads((work / "out" / "evaluation.json").read_text())["found"]
    assert saved["clean"][1] == 1
    assert any("hold nothing to read" in note for note in saved["notes"])
    assert "hold nothing to read" in (work / "out" / "report.md").read_text()


@pytest.mark.fault("U9")
def test_only_texts_without_anything_to_read_are_refused(given, work):
    rows = [{"text": text, "label": 0} for text in BLANK]
    settings = {**given, "test_file": write(work / "rows.jsonl", rows), "output_dir": "out"}
    refused_last(call("attack", **settings), "nothing to attack", "rows.jsonl")
    assert not (work / "out").exists()


@pytest.mark.fault("E2")
def test_texts_without_spaces_are_said_and_segmented(given, work, monkeypatch):
    rows = [{"text": text, "label": 0} for text in ("这部电影很好看", "the end is dull")]
    settings = {**given, "attacks": "static", "test_file": write(work / "rows.jsonl", rows)}
    run = call("attack", **settings, output_dir="plain")
    assert "1 of 2 texts are in a script that does not part words by spaces" in run.out
    monkeypatch.setitem(
        sys.modules, "jieba", SimpleNamespace(lcut=lambda text: re.findall(r"\w\w?| ", text))
    )
    for name, count in (("characters", 7), ("jieba", 4)):
        run = call("attack", **settings, segmenter=name, output_dir=name)
        assert run.code == 0, run
        assert "script" not in run.out
        assert records(work / name)[0].found.words == count


@pytest.mark.fault("E4")
def test_stop_words_of_a_protocol_file(given, work):
    """A file in a file: its words are what the evaluation keeps."""
    (work / "stops.txt").write_text("dull\nwarm\n")
    (work / "mine.json").write_text('{"name": "mine", "stop_words": "stops.txt"}')
    assert call("attack", **{**given, "protocol": "mine.json"}, output_dir="out").code == 0
    saved = json.loads((work / "out" / "evaluation.json").read_text())
    assert saved["protocol"]["stop_words"] == ["dull", "warm"]
    for record in records(work / "out"):
        assert ("dull" in record.found.original) == ("dull" in record.found.adversarial)
    (work / "mine.json").write_text('{"name": "mine", "stop_words": "no.txt"}')
    run = call("attack", **{**given, "protocol": "mine.json"}, output_dir="other")
    refused_last(run, "no.txt", "english")


def test_words_and_functions_of_ones_own(given, work):
    """By flags, into the hash, and named in the report."""
    (work / "mine.py").write_text(
        "def short(original, texts):\n    return [len(t) <= len(original) for t in texts]\n\n"
        "def sure(logits, label):\n    return 1.0 - (logits[:, label] - logits[:, 1 - label])\n"
    )
    (work / "names.txt").write_text("the plot\nending\n")
    settings = {**given, "attacks": ["deepwordbug"], "constraints": "mine.py:short"}
    settings |= {"goal": "mine.py:sure", "protected_words": ["names.txt", "score"]}
    run = call("attack", **settings, stop_words="none", output_dir="out")
    assert run.code == 0, run.err
    saved = json.loads((work / "out" / "evaluation.json").read_text())
    assert saved["protocol"]["name"] == "default with own words"
    assert saved["protocol"]["protected"] == ["ending", "score", "the plot"]
    assert "The constraint short has no version" in run.out
    assert "The goal sure has no version" in run.out
    found = records(work / "out")
    assert {r.outcome for r in found} >= {"fooled"}
    for r in found:
        assert len(r.found.adversarial) <= len(r.found.original)
        for kept in ("the plot", "ending", "score"):
            assert (kept in r.found.original) <= (kept in r.found.adversarial)
    (work / "mine.py").write_text((work / "mine.py").read_text().replace("1.0", "2.0"))
    refused_last(call("attack", **settings, stop_words="none", output_dir="out"), "other resources")


def test_a_segmenter_of_ones_own(given, work):
    (work / "mine.py").write_text(
        "def pairs(t):\n    return [t[n:n+2] for n in range(0, len(t), 2)]"
    )
    rows = [{"text": "这部电影很好看", "label": 0}, {"text": "the end is dull", "label": 0}]
    settings = {**given, "attacks": "static", "test_file": write(work / "rows.jsonl", rows)}
    assert call("attack", **settings, segmenter="mine.py:pairs", output_dir="out").code == 0
    assert records(work / "out")[0].found.words == 4


@pytest.mark.fault("E1")
def test_classes_are_matched_by_name(given, work):
    """The same run from labels in other case, and an assumed order that is said."""
    rows = [{**row, "label": row["label"].upper()} for row in TEXTS]
    settings = {**given, "attacks": "static", "test_file": write(work / "rows.jsonl", rows)}
    run = call("attack", **settings, output_dir="named")
    assert "Note" not in run.out
    numbers = [{**row, "label": int(row["label"] == "good")} for row in TEXTS]
    settings["test_file"] = write(work / "numbers.jsonl", numbers)
    run = call("attack", **settings, output_dir="numbered")
    assert "were read as the model numbers its classes: 0 bad, 1 good" in run.out
    labels = [[r.label for r in records(work / name)] for name in ("named", "numbered")]
    assert labels[0] == labels[1] == [row["label"] for row in numbers]


def test_another_run_does_not_write_into_the_folder(given, straight, tmp_path):
    before = snapshot(straight[1])
    run = call("attack", **given, seed=1, output_dir=straight[1])
    refused_last(run, "another run", "seed")
    assert snapshot(straight[1]) == before


def test_two_processes_do_not_write_into_one_folder(given, tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        run = call("attack", **given, output_dir=tmp_path / "out")
    refused_last(run, "another process")
    assert not (tmp_path / "out" / "records.jsonl").exists()


def test_an_untrained_model_is_refused(files, given, work):
    settings = {**given, "model_name_or_path": files["model_name_or_path"], "output_dir": "out"}
    refused_last(call("attack", **settings), "no trained classifier")


@pytest.mark.fault("U3")
@pytest.mark.parametrize("epsilons", [0, -1, "nan", "inf", [0.1, -1], [0, 0.1], [0.1, 0.1]])
def test_radii_that_are_none_are_refused(given, work, epsilons):
    settings = {**given, "attacks": ["deepwordbug"], "epsilons": epsilons, "output_dir": "out"}
    refused_last(call("evaluate", **settings), "--epsilons")
    assert not (work / "out").exists()


@pytest.mark.fault("S4")
def test_the_first_step_is_a_flag_and_belongs_to_the_numbers(given, tmp_path):
    settings = {**given, "attacks": ["static"], "epsilons": 0.1, "embedding_steps": 2}
    settings |= {"max_examples": 6, "checks": False}
    hashes = []
    for step_size in (0.5, 2.0):
        folder = tmp_path / str(step_size)
        run = call("evaluate", **settings, embedding_step_size=step_size, output_dir=folder)
        assert run.code == 0, run.err
        hashes.append(json.loads((folder / "evaluation.json").read_text())["hashes"])
    assert hashes[0]["static"] == hashes[1]["static"]
    assert hashes[0]["embedding-pgd-l2"] != hashes[1]["embedding-pgd-l2"]
    both = [tmp_path / "0.5", tmp_path / "2.0"]
    assert main(["report", *map(str, both), "--output_dir", str(tmp_path / "report")]) == 2
    refused_last(call("evaluate", **settings, embedding_step_size=0, output_dir="x"), "step_size")


@pytest.mark.fault("D5")
@pytest.mark.parametrize("command", ["attack", "evaluate"])
def test_a_model_that_diverged_is_refused(given, work, command):
    model = BertForSequenceClassification.from_pretrained(given["model_name_or_path"])
    model.bert.pooler.dense.weight.data[0, 0] = torch.nan
    model.save_pretrained(work / "model")
    AutoTokenizer.from_pretrained(given["model_name_or_path"]).save_pretrained(work / "model")
    settings = {**given, "attacks": ["deepwordbug"], "model_name_or_path": work / "model"}
    run = call(command, **settings, output_dir=work / "out")
    refused_last(run, "bert.pooler.dense.weight holds inf or nan", "diverged")
    assert not (work / "out").exists()


class TestModelsNoFolderHolds:
    """A model's code may do what its weights do not show."""

    @pytest.fixture
    def evaluated(self, given):
        def run(change, **settings):
            tokenizer = AutoTokenizer.from_pretrained(given["model_name_or_path"])
            model = BertForSequenceClassification.from_pretrained(given["model_name_or_path"])
            model.register_forward_hook(lambda module, args, output: change(output))
            rows = [{"text": r["text"], "label": int(r["label"] == "good")} for r in TEXTS]
            return evaluate_robustness(
                model.eval(), tokenizer, rows, progress=False, max_examples=20, **settings
            )

        return run

    @pytest.mark.fault("S5")
    def test_one_that_answers_at_random_fails_a_check(self, evaluated):
        def shaken(output):
            output["logits"] = output["logits"] * (1 + torch.rand(()))
            return output

        white_box = WhiteBox(embedding_pgd((0.1,), steps=2), check_examples=10)
        for settings in ({}, {"white_box": white_box}):
            found = evaluated(shaken, **settings)
            failed = [check.name for check in found.checks if check.passed is False]
            assert failed.count("repeatable") == 1
        assert any("at random" in note for note in found.notes)

    @pytest.mark.fault("S6")
    def test_one_without_gradient_is_marked(self, evaluated):
        def cut(output):
            output["logits"] = output["logits"].detach()
            return output

        found = evaluated(cut, white_box=WhiteBox(embedding_pgd((0.1,), steps=2), checks=False))
        assert any("no gradient" in note for note in found.notes)
        with pytest.raises(UserError, match="no gradient of its word embeddings"):
            evaluated(cut, attacks=["hotflip"])

    @pytest.mark.fault("D5")
    def test_answers_that_are_no_numbers(self, evaluated):
        def some(output):
            output["logits"] = output["logits"].where(output["logits"][:, :1] > 0, torch.nan)
            return output

        found = evaluated(some)
        assert any("inf or nan" in note for note in found.notes)
        wrong = [record for record in found.records if record.prediction == -1]
        assert wrong
        assert {record.outcome for record in wrong} == {"wrong"}

        def none(output):
            output["logits"] = output["logits"] * torch.inf
            return output

        with pytest.raises(UserError, match="inf or nan"):
            evaluated(none)

    @pytest.mark.fault("E10")
    def test_a_tie_is_not_right(self, evaluated):
        def level(output):
            output["logits"] = output["logits"] * 0
            return output

        white_box = WhiteBox(embedding_pgd((0.1,), steps=2), checks=False)
        found = evaluated(level, white_box=white_box, clean_on_all=True)
        assert found.clean_on_all[0] == 0
        assert {record.outcome for record in found.records} == {"wrong"}
        assert {record.prediction for record in found.records} == {-1}
