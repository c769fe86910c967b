"""Several processes at one evaluation: what each does, and that it comes to what one would do.

They are threads here that talk through a store in memory; `test_processes_started.py` has real
ones.
"""

import threading
from dataclasses import dataclass, field
from itertools import chain

import pytest
import torch
from made_records import words_record
from torch.distributed import HashStore

from nlp_adv.errors import UserError
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.evaluation import Attempt, evaluated
from nlp_adv.robustness.processes import ALONE, AnotherFailed, Processes, launched
from nlp_adv.robustness.record import digits_of_text
from nlp_adv.robustness.records import RECORDS, read_records

NAMES = ("swap", "flip")
EXAMPLES = list(range(11))


@dataclass(frozen=True)
class Text:
    """What an attack is given."""

    id: int
    label: int = 1
    text: str = "a text"
    context: None = None


@dataclass
class Two:
    """An attack that takes two examples at once, and may be stopped after some."""

    name: str
    stops_after: float = float("inf")
    ran: list[int] = field(default_factory=list)
    radii = (None,)
    doubts = ()

    def wants(self, example):
        return example.id != 3

    def portions(self, examples):
        return [examples[at : at + 2] for at in range(0, len(examples), 2)]

    def run(self, portions):
        for example in chain.from_iterable(portions):
            if len(self.ran) >= self.stops_after:
                raise UserError("It stops.")
            self.ran.append(example.id)
            outcome = ("fooled", "robust", "wrong")[example.id % 3]
            digits = digits_of_text(example.text, None)
            yield words_record(example.id, outcome, attack=self.name, example=digits)


class Reader:
    """Says the same twice."""

    def twice(self, examples):
        return (torch.zeros(len(examples), 2),) * 2


@dataclass
class Counted:
    """A number that an attack counts."""

    texts: int = 0


def attempted(folder, processes=ALONE, stops_after=float("inf"), chunk=11):
    """The evaluation, what was run in it, and a number that each process counts."""
    attacks, counted = [Two(name, stops_after) for name in NAMES], Counted(texts=1)
    texts = [Text(number) for number in EXAMPLES]
    run = Evaluation(hashes=dict.fromkeys(NAMES, "1a"), model="0a", data="1b", seed=0)
    attempt = Attempt(
        run=run,
        runners=attacks,
        reader=Reader(),
        chunks=[texts[at : at + chunk] for at in range(0, len(texts), chunk)],
        work=lambda: {"forwards": float(sum(len(one.ran) for one in attacks))},
        counters=((counted, "texts"),),
    )
    found = evaluated(attempt, folder, progress=None, processes=processes)
    return found, [one.ran for one in attacks], counted.texts


def together(of, call):
    """What each of several processes returns, or the exception that ended it."""
    store, results = HashStore(), {}

    def run(index):
        try:
            results[index] = call(Processes(index, of, store))
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(of)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return [results[index] for index in range(of)]


@pytest.mark.parametrize("of", [2, 3])
@pytest.mark.parametrize("chunk", [11, 2])
def test_several_leave_what_one_leaves(tmp_path, of, chunk):
    one, _, _ = attempted(tmp_path / "one", chunk=chunk)
    several = together(of, lambda own: attempted(tmp_path / "all", own, chunk=chunk))
    main = several[0][0]
    assert main.records == one.records
    for name in (RECORDS, "evaluation.json"):
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert main.cost == one.cost == {"forwards": 20.0}
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )
    # Each example was attacked once, by one process, and none did all of it.
    for place, _ in enumerate(NAMES):
        ran = [result[1][place] for result in several]
        assert sorted(chain(*ran)) == [n for n in EXAMPLES if n != 3]
        assert all(ran)
    assert several[0][2] == of  # what each counted, added up


@pytest.mark.fault("E12")
@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("again", [1, 2, 3])
def test_one_that_stops_stops_all_and_the_run_goes_on(tmp_path, failing, again):
    attempted(tmp_path / "one")

    def run(own):
        return attempted(tmp_path / "all", own, 3 if own.index == failing else float("inf"))

    ended = together(2, run)
    assert isinstance(ended[failing], UserError)
    done = {record.key for record in read_records(tmp_path / "all" / RECORDS)}
    for part in (tmp_path / "all").glob("process-*"):
        done |= {record.key for record in read_records(part / RECORDS)}
    assert 3 <= len(done) < 20
    on = together(again, lambda own: attempted(tmp_path / "all", own))
    assert [one for one in on if isinstance(one, Exception)] == []
    ran = {
        (name, None, n) for one in on for name, ids in zip(NAMES, one[1], strict=True) for n in ids
    }
    assert not ran & done  # what was finished is not attacked again
    assert len(ran | done) == 20
    files = [tmp_path / folder / RECORDS for folder in ("one", "all")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not list((tmp_path / "all").glob("process-*"))


def test_the_others_end_where_the_main_one_cannot_begin(tmp_path):
    attempted(tmp_path)
    run = Evaluation(hashes={"swap": "2b"}, model="another", data="1b", seed=0)

    def other_run(own):
        attempt = Attempt(run=run, runners=[Two("swap")], reader=Reader(), chunks=[[Text(0)]])
        return evaluated(attempt, tmp_path, progress=None, processes=own)

    main, other = together(2, other_run)
    assert isinstance(main, UserError)
    assert isinstance(other, AnotherFailed)


def test_one_process_says_why(tmp_path):
    said = together(3, lambda own: own.fails())
    assert sorted(said) == [False, False, True]


def test_without_a_folder_several_are_refused():
    ended = together(2, lambda own: attempted(None, own))
    assert all(isinstance(one, UserError | AnotherFailed) for one in ended)
    assert any("give output_dir" in str(one) for one in ended)


@pytest.mark.parametrize("of", [1, 2, 5])
def test_portions_are_dealt_out_in_turn(of):
    dealt = [list(Processes(index, of).share(range(7), turn=4)) for index in range(of)]
    assert sorted(chain(*dealt)) == list(range(7))
    first = next(index for index, one in enumerate(dealt) if 0 in one)
    assert first == 4 % of


class TestLaunched:
    @pytest.fixture(autouse=True)
    def _own(self, monkeypatch):
        for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "ACCELERATE_USE_CPU"):
            monkeypatch.delenv(name, raising=False)
        launched.cache_clear()
        yield
        launched.cache_clear()

    def test_without_a_launcher_it_is_alone(self, capsys):
        assert launched().of == 1
        assert launched().main
        assert not capsys.readouterr().err

    def test_accelerate_on_a_cpu_starts_one_and_it_says_so(self, monkeypatch, capsys):
        monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
        monkeypatch.setenv("MASTER_PORT", "29500")
        assert launched().of == 1
        assert "torchrun --nproc_per_node" in capsys.readouterr().err

    def test_a_launcher_that_cannot_be_reached_is_named(self, monkeypatch):
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.delenv("MASTER_ADDR", raising=False)
        with pytest.raises(UserError, match="cannot reach each other"):
            launched()
