"""A study that several processes work on, and that goes on after any of them was killed."""

import json
import os
import signal
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier, Thread

import optuna
import pytest
from optuna.trial import TrialState

from nlp_adv.errors import UserError
from nlp_adv.experiments.plan import planned
from nlp_adv.experiments.space import Hyperparameter, hp_space
from nlp_adv.experiments.study import JOURNAL, StudyFolder
from nlp_adv.folders import FolderTaken, alone_in


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(level)


SETTINGS = {"search": "random", "seed": 0}
TRIALS = 8


SPACE = [
    Hyperparameter("x", low=0.1, high=1.0, log=True),
    Hyperparameter("y", low=0, high=100, whole=True),
]
space = hp_space(SPACE)


def opened(folder: Path, search: str = "random", total: int = TRIALS, **given) -> StudyFolder:
    plan = planned(search, SPACE, n_trials=total, seed=0)
    found = StudyFolder(folder)
    found.open(SETTINGS, plan, **{"seed": 0, "overwrite": False} | given)
    return found


def score(trial, folder=None) -> float:
    values = space(trial)
    trial.set_user_attr("pid", os.getpid())
    return values["x"] + values["y"]


def values_of(folder: StudyFolder) -> list[tuple]:
    return [(one.number, one.params, one.value) for one in folder.trials(TrialState.COMPLETE)]


def alone(folder: Path, search: str = "random", total: int = TRIALS) -> list[tuple]:
    found = opened(folder, search, total)
    found.work(total, score)
    return values_of(found)


def test_trials_are_the_plan(tmp_path):
    plan = planned("random", SPACE, n_trials=TRIALS, seed=0)
    found = alone(tmp_path / "one")
    assert [params for _, params, _ in found] == plan
    assert [number for number, *_ in found] == list(range(TRIALS))
    assert [value for *_, value in found] == [one["x"] + one["y"] for one in plan]
    assert [path.name for path in (tmp_path / "one").iterdir()] == [JOURNAL]


@pytest.mark.fault("D4")
def test_several_at_once_share_the_trials(tmp_path):
    """Opened at the same moment, each with storage and locks of its own; nothing runs twice."""
    ran, together = [], Barrier(4)

    def work() -> None:
        together.wait()
        folder = opened(tmp_path / "many")

        def slow(trial, place) -> float:
            ran.append(trial.number)
            time.sleep(0.02)
            return score(trial)

        folder.work(TRIALS, slow)

    workers = [Thread(target=work) for _ in range(4)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    assert sorted(ran) == list(range(TRIALS))
    assert values_of(opened(tmp_path / "many")) == alone(tmp_path / "one")


def hang_in(folder: Path, search: str, number: int) -> None:
    """A process that works until it comes to that trial."""

    def hang(trial, place) -> float:
        value = score(trial)
        if trial.number == number:
            (folder / "hangs").touch()
            time.sleep(600)
        return value

    opened(folder, search).work(TRIALS, hang)


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_what_a_killed_process_left_is_taken_up_again(tmp_path, search):
    """With its own values and number, and the other trials are those of an undisturbed study."""
    folder = tmp_path / "killed"
    process = get_context("fork").Process(target=hang_in, args=(folder, search, 3))
    process.start()
    while not (folder / "hangs").exists():
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (folder / "hangs").unlink()
    found = opened(folder, search)
    left = found.trials()[3]
    assert left.state == TrialState.RUNNING
    found.work(TRIALS, score)
    numbers = Counter(one.user_attrs["pid"] for one in found.trials())
    assert numbers == {process.pid: 3, os.getpid(): TRIALS - 3}
    assert found.trials()[3].params == left.params
    assert values_of(found) == alone(tmp_path / "undisturbed", search, TRIALS)
    assert [path.name for path in folder.iterdir()] == [JOURNAL]


def test_half_a_line_is_cut_off(tmp_path):
    folder = opened(tmp_path)

    def stop(trial, place) -> float:
        if trial.number == 2:
            raise KeyboardInterrupt
        return score(trial)

    with pytest.raises(KeyboardInterrupt):
        folder.work(TRIALS, stop)
    with (tmp_path / JOURNAL).open("a", encoding="utf-8") as file:
        file.write('{"op_code": 8, "wor')
    again = opened(tmp_path)
    again.work(TRIALS, score)
    assert values_of(again) == values_of(opened(tmp_path)) == alone(tmp_path / "whole")


def test_more_trials_can_be_asked_for(tmp_path):
    first = alone(tmp_path / "some", total=3)
    assert alone(tmp_path / "some", total=6)[:3] == first
    assert alone(tmp_path / "some", total=4) == alone(tmp_path / "six", total=6)


def test_tpe_learns_from_the_trials_before(tmp_path):
    """Most draws beyond the first ten lie in the better half; at random, half would."""
    folder = opened(tmp_path, "tpe", 40)
    folder.work(40, lambda trial, place: -space(trial)["y"])
    late = [one.params["y"] for one in folder.trials()[20:]]
    assert sum(value < 50 for value in late) >= 17


def test_a_trial_that_fails_keeps_the_reason(tmp_path):
    def fail(trial, place) -> float:
        if trial.number == 1:
            raise UserError("The weights are no numbers.")
        return score(trial)

    folder = opened(tmp_path)
    folder.work(TRIALS, fail)
    failed = folder.trials(TrialState.FAIL)
    assert [one.number for one in failed] == [1]
    assert failed[0].user_attrs["failed"] == "The weights are no numbers."
    assert len(folder.ranked) == TRIALS - 1
    assert folder.unfinished(TRIALS) == 0
    values = [one.value for one in folder.ranked]
    assert values == sorted(values, reverse=True)


def test_equal_values_are_ranked_by_number(tmp_path):
    folder = opened(tmp_path)
    folder.work(TRIALS, lambda trial, place: float(space(trial)["y"] > 50))
    ranked = [(-one.value, one.number) for one in folder.ranked]
    assert ranked == sorted(ranked)
    assert len({value for value, _ in ranked}) == 2


def test_a_study_at_work_is_not_written_over(tmp_path):
    opened(tmp_path)
    whole = (tmp_path / JOURNAL).read_bytes()
    with alone_in(tmp_path / "trial-0"):
        work = Thread(target=lambda: refused.append(overwrite(tmp_path)))
        refused: list = []
        work.start()  # a lock may be held again by its own thread
        work.join()
    assert isinstance(refused[0], FolderTaken)
    assert (tmp_path / JOURNAL).read_bytes() == whole
    assert overwrite(tmp_path) is None


def overwrite(folder: Path) -> Exception | None:
    try:
        opened(folder, overwrite=True)
    except FolderTaken as error:
        return error
    return None


@pytest.mark.parametrize("content", ["", '{"op_code": 0, "wor'])
def test_a_process_killed_at_its_start_left_no_study(tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / JOURNAL).write_text(content, encoding="utf-8")
    StudyFolder(tmp_path / "out").check(SETTINGS, overwrite=False)
    assert alone(tmp_path / "out") == alone(tmp_path / "one")


def test_settings_are_compared_as_json_keeps_them(tmp_path):
    folder = StudyFolder(tmp_path)
    given = {"flags": {"attack_epsilons": ("0.1", "inf")}, "seed": 1}
    folder.open(given, [], seed=0, overwrite=False)
    folder.check(json.loads(json.dumps(given)), overwrite=False)
    folder.check(given, overwrite=False)
    with pytest.raises(UserError, match=r"another seed \(1\)"):
        folder.check(given | {"seed": 2}, overwrite=False)
