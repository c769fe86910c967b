"""An Optuna study in a folder: which trials there are, who runs which, and how it goes on.

The study lives in Optuna's journal, a file that several processes may append to. All trials of a
search are in it before the first one runs, so that a process only has to take one: it holds the
lock of the trial's folder, which the operating system gives back if the process is killed, and
whoever comes next takes the trial up again with the values that it has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from nlp_adv.errors import UserError
from nlp_adv.experiments.plan import sampler_of_trial
from nlp_adv.folders import FolderTaken, alone_in, is_empty

JOURNAL, STUDY = "optuna_journal.log", "sweep"
_OF_050 = ("sweep.json", "trials.jsonl")  # what a sweep of version 0.5.0 wrote
_PATIENCE = 60.0  # seconds that a process waits for another one to open the study or report on it


class StudyFolder:
    """Where a search lives; the same request finds its trials there, and others may help.

    Args:
        path: the folder; it is made when the study is opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.study: optuna.Study
        self._seed: int

    def check(self, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        """Whether a search with these settings can begin, or go on, here; nothing is written.

        Raises:
            FolderTaken: another command writes here, or a study that is at work would be deleted.
            UserError: the folder holds something else, or a search with other settings.
        """
        with self.alone():
            self._check(settings, overwrite=overwrite)

    def open(
        self,
        settings: Mapping[str, Any],
        plan: Sequence[Mapping[str, Any]],
        *,
        seed: int,
        overwrite: bool,
    ) -> None:
        """Put the trials into the study that are not in it yet.

        Args:
            settings: what must stay the same for the study to be continued; JSON can hold it.
            plan: the values of all trials.
            seed: of what is not planned, which TPE then chooses.
            overwrite: whether to begin anew.
        """
        with self.alone():
            self._check(settings, overwrite=overwrite)  # another process may have been faster
            journal = self.path / JOURNAL
            if overwrite:
                for name in (JOURNAL, *_OF_050, "sweep.md", "sweep.svg", "best.json"):
                    (self.path / name).unlink(missing_ok=True)
            _mend(journal)
            self._seed = seed
            storage = _storage(journal)
            if not storage.get_all_studies():
                optuna.create_study(study_name=STUDY, storage=storage, direction="maximize")
            self.study = optuna.load_study(study_name=STUDY, storage=storage)
            if "settings" not in self.study.user_attrs:
                self.study.set_user_attr("settings", settings)
            for params in plan[len(self.trials()) :]:
                self.study.enqueue_trial(dict(params))

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials by number: all of them, or those in one of these states."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    @property
    def ranked(self) -> list[FrozenTrial]:
        """The trials that have a value, the best first, the lowest number first among equals."""
        done = self.trials(TrialState.COMPLETE)
        return sorted(done, key=lambda trial: (-_value(trial), trial.number))

    def unfinished(self, total: int) -> int:
        """How many of the first so many trials are not finished."""
        return sum(not trial.state.is_finished() for trial in self.trials()[:total])

    def alone(self) -> AbstractContextManager[None]:
        """No other process opens the study or reports on it meanwhile; it is waited for.

        Raises:
            FolderTaken: another command writes into the folder.
        """
        return alone_in(self.path, wait=_PATIENCE)

    def work(self, total: int, objective: Callable[[Trial, Path], float]) -> None:
        """Run the trials that are neither finished nor another process's, one after the other.

        Args:
            total: how many trials the search has.
            objective: what a trial is worth, given a folder that is its own. Where it raises a
                UserError, the trial has failed and keeps the sentence; the others go on.
        """
        while any([self._took(number, objective) for number in range(total)]):
            pass  # once more, for those whose process was killed meanwhile

    def _took(self, number: int, objective: Callable[[Trial, Path], float]) -> bool:
        if self.trials()[number].state.is_finished():
            return False
        folder = self.path / f"trial-{number}"
        try:
            with alone_in(folder):
                ran = self._run(number, objective, folder)
        except FolderTaken:
            return False
        with suppress(OSError):  # not empty, or another's already; one with nothing to keep goes
            folder.rmdir()
        return ran

    def _run(self, number: int, objective: Callable[[Trial, Path], float], folder: Path) -> bool:
        frozen = self.trials()[number]
        if frozen.state.is_finished():  # between the look and the lock
            return False
        # With several processes TPE keeps away from what others are trying.
        self.study.sampler = sampler_of_trial(TPESampler, self._seed, number, constant_liar=True)
        self.study._storage.set_trial_state_values(frozen._trial_id, TrialState.RUNNING)
        trial = Trial(self.study, frozen._trial_id)
        try:
            value = objective(trial, folder)
        except UserError as error:
            trial.set_user_attr("failed", str(error))
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, value)
        return True

    def _check(self, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        way_out = "name a new --output_dir, or pass --overwrite_output_dir true."
        if overwrite:
            for folder in self.path.glob("trial-*"):
                with alone_in(folder):  # or it is taken
                    pass
            return
        if is_empty(self.path):
            return
        if any((self.path / name).exists() for name in _OF_050):
            raise UserError(
                f"{self.path} holds a sweep of version 0.5, whose trials were kept otherwise and "
                f"cannot be continued: {way_out}"
            )
        journal = self.path / JOURNAL
        if not journal.is_file():
            raise UserError(f"{self.path} is not empty and holds no sweep: {way_out}")
        try:
            studies = _storage(journal).get_all_studies()
            attributes = [study.user_attrs for study in studies if study.study_name == STUDY]
        except Exception as error:  # a damaged journal fails in any way
            raise UserError(
                f"The sweep in {self.path} cannot be read "
                f"({type(error).__name__}: {' '.join(str(error).split())}): {way_out}"
            ) from error
        before = attributes[0].get("settings") if attributes else None
        if before is not None and before != json.loads(json.dumps(settings)):
            raise UserError(
                f"{self.path} holds a sweep with another {_difference(before, settings)}: give the "
                f"same to continue it, {way_out}"
            )


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None  # it is finished
    return trial.value


def _storage(journal: Path) -> JournalStorage:
    # Not a symbolic link for a lock, Optuna's default, which needs a right of its own on Windows.
    lock = JournalFileOpenLock(str(journal))
    return JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))


def _mend(journal: Path) -> None:
    """Cut the half of a line off that a killed process may have left: what follows would break."""
    if not journal.exists():
        return
    lock = JournalFileOpenLock(str(journal))
    lock.acquire()
    try:
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with journal.open("rb+") as file:
                file.truncate(whole)
    finally:
        lock.release()


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first setting in which two searches differ, and its value there."""
    one = {**before, **before.get("flags", {})}
    other = {**now, **now.get("flags", {})}
    names = [name for name in (*one, *other) if name != "flags"]
    name = next((name for name in names if one.get(name) != other.get(name)), "setting")
    return f"{name} ({one.get(name, 'not given')})"
