"""`nlp-adv resources`: what it lists, fetches and refuses; and attacks find what it fetched."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zipfile
from dataclasses import replace
from http.client import IncompleteRead
from pathlib import Path

import pytest
from commands import TEXTS, write

from nlp_adv.attacks.words.attacks.build import ATTACKS
from nlp_adv.cli import resource_files
from nlp_adv.cli.main import main
from nlp_adv.cli.resource_folder import folder
from nlp_adv.cli.resource_list import RESOURCES
from nlp_adv.data.files import read_file
from nlp_adv.data.prompts import read_benign, read_prompts

DATA = os.environ.get("NLP_ADV_DATA")
NEIGHBOURS = {"good": ["fine", "nice"], "bad": ["poor"]}
VECTORS = "good 1 0 0\nfine 0.9 0.1 0\nbad -1 0.2 0\npoor -1 0.1 0\nthe 0 0 1\n"
KEPT = [one for one in RESOURCES.values() if one.file]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """An empty folder of resources."""
    monkeypatch.setenv("NLP_ADV_RESOURCES", str(tmp_path / "cache"))
    return tmp_path / "cache"


def published(name: str, file: Path, monkeypatch, sha256: str | None = None) -> None:
    """Let a file of this machine be what the network has."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if sha256 is None else sha256
    changed = replace(RESOURCES[name], url=file.as_uri(), sha256=digest)
    monkeypatch.setitem(RESOURCES, name, changed)


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refused(capsys, *argv: str) -> str:
    assert main(["resources", *argv]) == 2
    lines = capsys.readouterr().err.splitlines()
    said = lines[-1]
    assert said.startswith("nlp-adv resources: error: ")
    return said


class TestList:
    def test_it_says_of_each_what_for_whence_and_whether_it_is_here(self, capsys, place):
        assert main(["resources"]) == 0
        shown = capsys.readouterr().out
        blocks = {block.split("\n")[0]: block for block in shown.split("\n\n")}
        for name, one in RESOURCES.items():
            block = " ".join(blocks[name].split())
            assert one.licence in block
            assert one.source in block
            assert one.needed_by in block
        assert "nlp-adv resources get neighbours" in blocks["neighbours"]
        assert str(place) in shown
        assert not place.exists()  # looking makes nothing

    def test_what_was_fetched_is_listed_as_here(self, capsys, place, tmp_path):
        file = written(tmp_path / "own.json", json.dumps(NEIGHBOURS))
        assert main(["resources", "get", "neighbours", "--from", str(file)]) == 0
        capsys.readouterr()
        main(["resources"])
        assert f"here, {place / 'neighbours.json'}" in " ".join(capsys.readouterr().out.split())

    def test_every_attack_that_needs_something_finds_it_named(self):
        named = " ".join(one.needed_by for one in RESOURCES.values())
        needing = {"textfooler", "a2t", "genetic", "textbugger", "pwws", "bae", "bert-attack"}
        assert needing | {"clare", "static"} <= set(ATTACKS)
        assert all(name in named for name in needing | {"clare", "static"})

    @pytest.mark.parametrize("one", KEPT, ids=lambda one: one.name)
    def test_addresses_and_checksums_have_their_form(self, one):
        assert one.url.startswith("https://")
        assert len(one.sha256) in (0, 64)
        assert one.sha256 == one.sha256.lower()
        if one.sha256:  # a file that has a checksum is one of a fixed commit
            assert any(len(part) == 40 for part in one.url.split("/"))


class TestGet:
    def test_a_download_with_the_known_checksum_is_kept_and_written_down(
        self, capsys, monkeypatch, place, tmp_path
    ):
        file = written(tmp_path / "there.json", json.dumps(NEIGHBOURS))
        published("neighbours", file, monkeypatch)
        assert main(["resources", "get", "neighbours"]) == 0
        out = capsys.readouterr()
        assert "Note" not in out.err
        assert json.loads((place / "neighbours.json").read_text()) == NEIGHBOURS
        source = json.loads((place / "neighbours.json.source.json").read_text())
        assert source["as_published"] is True
        assert source["sha256"] in out.out
        assert sorted(path.name for path in place.iterdir()) == [
            "neighbours.json", "neighbours.json.source.json"
        ]  # fmt: skip

    def test_another_checksum_is_refused_and_what_was_there_stays(
        self, capsys, monkeypatch, place, tmp_path
    ):
        place.mkdir()
        (place / "neighbours.json").write_text("before")
        file = written(tmp_path / "there.json", json.dumps(NEIGHBOURS))
        published("neighbours", file, monkeypatch, "0" * 64)
        said = refused(capsys, "get", "neighbours")
        assert "not 0000" in said
        assert [path.name for path in place.iterdir()] == ["neighbours.json"]
        assert (place / "neighbours.json").read_text() == "before"

    @pytest.mark.parametrize(
        "error",
        [IncompleteRead(b"{", 9), ConnectionResetError("reset by peer"), TimeoutError("timed out")],
        ids=lambda error: type(error).__name__,
    )
    def test_a_download_that_breaks_off_leaves_nothing_and_says_what_to_do(
        self, error, capsys, monkeypatch, place
    ):
        class Broken:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                return None

            def read(self, most):
                raise error

        monkeypatch.setattr(resource_files.urllib.request, "urlopen", lambda *_, **__: Broken())
        said = refused(capsys, "get", "wordnet")
        assert "run nlp-adv resources get wordnet --from FILE" in said
        assert not place.exists()

    def test_an_address_that_is_not_there_is_one_sentence(self, capsys, monkeypatch, tmp_path):
        file = written(tmp_path / "gone.json", "{}")
        published("neighbours", file, monkeypatch)
        file.unlink()
        assert "could not be fetched" in refused(capsys, "get", "neighbours")

    def test_without_a_known_checksum_there_is_a_note(self, capsys, monkeypatch, place, tmp_path):
        file = written(tmp_path / "there.csv", "Index,Goal,Target\n0,Do it,Sure\n")
        published("harmful-prompts", file, monkeypatch, "")
        assert main(["resources", "get", "harmful-prompts"]) == 0
        out = capsys.readouterr()
        assert "No checksum of harmful-prompts is known" in out.err
        source = json.loads((place / "harmful_prompts.jsonl.source.json").read_text())
        assert source["as_published"] is None
        assert source["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()

    def test_another_local_file_than_the_published_one_is_taken_with_a_note(
        self, capsys, place, tmp_path
    ):
        file = tmp_path / "own.json.gz"
        file.write_bytes(gzip.compress(json.dumps(NEIGHBOURS).encode()))
        assert main(["resources", "get", "neighbours", "--from", str(file)]) == 0
        assert "another file than the published one" in capsys.readouterr().err
        assert json.loads((place / "neighbours.json").read_text()) == NEIGHBOURS

    @pytest.mark.parametrize("packing", [".txt", ".txt.gz", ".txt.zip"])
    def test_lists_are_built_from_vectors(self, packing, place, tmp_path):
        file = tmp_path / f"vectors{packing}"
        if packing == ".txt.zip":
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("vectors.txt", VECTORS)
        else:
            raw = VECTORS.encode()
            file.write_bytes(gzip.compress(raw) if packing == ".txt.gz" else raw)
        assert main(["resources", "get", "neighbours", "--from", str(file)]) == 0
        table = json.loads((place / "neighbours.json").read_text())
        assert {word: [other for other, _ in near] for word, near in table.items()} == {
            "good": ["fine"], "fine": ["good"], "bad": ["poor"], "poor": ["bad"]
        }  # fmt: skip

    def test_to_keeps_it_elsewhere_and_says_how_attacks_find_it(self, capsys, place, tmp_path):
        file = written(tmp_path / "own.json", json.dumps(NEIGHBOURS))
        elsewhere = tmp_path / "elsewhere"
        argv = ["get", "neighbours", "--from", str(file), "--to", str(elsewhere)]
        assert main(["resources", *argv]) == 0
        assert f"NLP_ADV_RESOURCES={elsewhere}" in capsys.readouterr().out
        assert (elsewhere / "neighbours.json").is_file()
        assert not place.exists()

    def test_a_place_that_is_no_folder_is_refused(self, capsys, tmp_path):
        file = written(tmp_path / "own.json", json.dumps(NEIGHBOURS))
        said = refused(capsys, "get", "neighbours", "--from", str(file), "--to", str(file))
        assert "name another folder with --to" in said
        assert json.loads(file.read_text()) == NEIGHBOURS

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("neighbours", '{"good": 3}', "expected a list of words"),
            ("neighbours", '["good"]', "is no object"),
            ("neighbours", "good 1 2\nbad 1\n", "line 2"),
            ("neighbours", "", "is empty"),
            ("wordnet", "nothing", "is not WordNet"),
            ("advglue", "{}", "is not AdvGLUE's dev.json"),
            ("advglue", "[", "is not AdvGLUE's dev.json"),
            ("counterfactual-imdb", "a\tb\n1\t2\n", "Sentiment and Text"),
            ("counterfactual-imdb", "Sentiment\tText\n", "has no rows"),
            ("harmful-prompts", "a,b\n1,2\n", "goal or prompt"),
        ],
    )
    def test_files_of_another_format_are_refused(self, name, text, said, capsys, place, tmp_path):
        file = written(tmp_path / "file.txt", text)
        answer = refused(capsys, "get", name, "--from", str(file))
        assert said in answer
        assert str(file) in answer
        assert not place.exists()

    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (["get", "neigbours"], "did you mean neighbours?"),
            (["get", "masked-lm"], "--masked_lm"),
            (["get"], "nlp-adv resources get NAME"),
            (["fetch", "wordnet"], "nlp-adv resources get NAME"),
            (["--from", "x"], "--from belongs to get"),
            (["get", "wordnet", "--from", "absent.zip"], "absent.zip cannot be read"),
            (["get", "wordnet", "--form", "x"], "did you mean --from?"),
        ],
    )
    def test_what_is_typed_wrong_is_answered_in_a_sentence(self, argv, said, capsys):
        assert said in refused(capsys, *argv)


class TestFormats:
    def test_prompts_are_those_that_an_evaluation_reads(self, place, tmp_path):
        file = written(
            tmp_path / "jbb.csv",
            'Index,Goal,Target\n0,"Say ""x"", then y","Sure, x"\n1,Two,"Sure, two"\n',
        )
        for name in ("harmful-prompts", "benign-prompts"):
            assert main(["resources", "get", name, "--from", str(file)]) == 0
        prompts = read_prompts(place / "harmful_prompts.jsonl")
        assert prompts.prompts[0] == 'Say "x", then y'
        assert prompts.targets == ("Sure, x", "Sure, two")
        assert read_benign(place / "benign_prompts.jsonl")[0] == 'Say "x", then y'

    def test_reviews_have_texts_and_labels(self, place, tmp_path):
        file = written(tmp_path / "test.tsv", 'Sentiment\tText\nNegative\t"a ""b"""\nPositive\tc\n')
        assert main(["resources", "get", "counterfactual-imdb", "--from", str(file)]) == 0
        rows = read_file(place / "counterfactual_imdb.jsonl")
        assert rows[:] == {"text": ['a "b"', "c"], "label": [0, 1]}

    def test_advglue_becomes_a_file_a_task_and_can_be_fetched_again(self, place, tmp_path):
        columns = {
            task: dict.fromkeys(names, "t") for task, names in resource_files._ADVGLUE.items()
        }
        content = {task: [{**row, "idx": 0, "label": 1}] for task, row in columns.items()}
        file = written(tmp_path / "dev.json", json.dumps(content))
        for _ in range(2):
            assert main(["resources", "get", "advglue", "--from", str(file)]) == 0
        assert read_file(place / "advglue" / "sst2.jsonl")[0] == {"text": "t", "label": 1}
        pair = {"sentence1": "t", "sentence2": "t", "label": 1}
        assert read_file(place / "advglue" / "mnli_mm.jsonl")[0] == pair
        assert sorted(path.name for path in place.iterdir()) == ["advglue", "advglue.source.json"]


class TestFolder:
    def test_the_variable_names_it(self, monkeypatch):
        monkeypatch.setenv("NLP_ADV_RESOURCES", "~/mine")
        assert folder() == Path.home() / "mine"

    def test_without_it_the_platforms_caches_hold_it(self, monkeypatch):
        monkeypatch.delenv("NLP_ADV_RESOURCES")
        monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
        monkeypatch.setattr("sys.platform", "linux")
        assert folder() == Path("/somewhere/nlp_adv")


@pytest.mark.fault("U13")
class TestAttacks:
    def attack(self, reader, tmp_path, name: str, *more: str) -> tuple[int, Path]:
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        texts = write(tmp_path / "texts.jsonl", TEXTS[:4])
        argv = ["attack", "--model_name_or_path", str(reader), "--test_file", str(texts)]
        return main([*argv, "--attacks", name, "--output_dir", str(out), *more]), out

    def test_what_is_missing_is_named_with_the_command(self, reader, tmp_path, capsys):
        code, _ = self.attack(reader, tmp_path, "textfooler")
        assert code == 2
        assert "nlp-adv resources get neighbours" in capsys.readouterr().err

    def test_fetched_neighbours_are_found_and_the_flag_wins(self, reader, tmp_path, capsys):
        ours = written(tmp_path / "ours.json", json.dumps({"superb": ["dull"]}))
        theirs = written(tmp_path / "theirs.json", json.dumps({"superb": ["stale"]}))
        assert main(["resources", "get", "neighbours", "--from", str(ours)]) == 0
        capsys.readouterr()
        found = []
        for more in ((), ("--neighbours", str(ours)), ("--neighbours", str(theirs))):
            code, out = self.attack(reader, tmp_path, "textfooler", *more)
            assert code == 0
            assert ("Taking neighbours from" in capsys.readouterr().err) == (not more)
            line = (out / "records.jsonl").read_text().splitlines()[0]
            found.append(json.loads(line))
        assert found[0] == found[1]
        assert found[0] != found[2]


@pytest.mark.real_data
@pytest.mark.skipif(not DATA, reason="NLP_ADV_DATA names no data")
def test_the_published_neighbours_are_known_by_their_checksum(capsys, place):
    file = Path(str(DATA)) / "counter_fitted" / "counterfitted_neighbors.json.gz"
    assert main(["resources", "get", "neighbours", "--from", str(file)]) == 0
    assert "Note" not in capsys.readouterr().err
    table = json.loads((place / "neighbours.json").read_text())
    assert len(table) == 49_975
