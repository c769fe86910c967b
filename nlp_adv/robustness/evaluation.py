"""One model under attack: run, written down as it goes, and taken up again where it stopped.

Texts and images come here as examples, a reader that makes batches of them, and runners: see
`evaluate_robustness` and `evaluate_images`, which make these.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from tqdm.auto import tqdm

from nlp_adv import __version__
from nlp_adv.attacks import PGD
from nlp_adv.errors import UserError
from nlp_adv.robustness.answers import Answers, check_answers
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks_records import record_checks
from nlp_adv.robustness.curve import CurveRequest
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.fingerprint import attack_fingerprint
from nlp_adv.robustness.finished import FinishedParts
from nlp_adv.robustness.masking import masking_checks
from nlp_adv.robustness.processes import ALONE, Processes
from nlp_adv.robustness.record import Record
from nlp_adv.robustness.repeatable import check_repeatable
from nlp_adv.robustness.runners import ROWS, Reader, Runner, waiting
from nlp_adv.robustness.store import Store
from nlp_adv.sites.any_model import a_tensor_of

_SECONDS = 0.2  # after which a process looks again how the others fare
_LOOKED_AT = 32  # examples, to see whether the model says the same twice


@dataclass(frozen=True)
class Masking:
    """The checks that an attack could see, as a part of an evaluation; see `masking_checks`.

    Args:
        attack: that is checked.
        examples: with the first so many.
        where: δ enters, which results depend on beside the attack.
        classes: see `masking_checks`.
    """

    attack: PGD
    examples: int = 100
    where: str = ""
    classes: bool = True


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What is attacked, by what, and what is asked for besides.

    Args:
        run: which run it is; without records.
        runners: the attacks.
        reader: of the examples.
        chunks: the examples, gone through once: all at once, or batch by batch.
        aside: names of runners whose records make curves, and are in no table.
        curves: over the radii of an attack.
        masking: None for no such checks.
        more: further checks, made of the records.
        work: what the model has done so far, by name; None where it is not counted.
        counters: numbers kept elsewhere, as (object, attribute): added up over processes.
        total: how many records there will be, for the progress bar.
        classes: the examples are of several classes, and logits say how sure the model is of them;
            checks of that are left out where all are requests to be refused.
    """

    run: Evaluation
    runners: Sequence[Runner]
    reader: Reader
    chunks: Iterable[Sequence[Any]]
    aside: frozenset[str] = frozenset()
    curves: Sequence[CurveRequest] = ()
    masking: Masking | None = None
    more: Callable[[Sequence[Record]], Sequence[Check]] = lambda records: ()
    work: Callable[[], Mapping[str, float]] | None = None
    counters: Sequence[tuple[Any, str]] = ()
    total: int | None = None
    classes: bool = True


def evaluated(
    attempt: Attempt,
    output_dir: str | Path | None = None,
    *,
    progress: str | None = "Attacking",
    processes: Processes = ALONE,
) -> Evaluation:
    """Attack, judge, and put together what came of it.

    With several processes the main one returns the whole, and the others what they did themselves.

    Args:
        attempt: what is to be done.
        output_dir: where records are kept as they come, and taken up again; None keeps none.
        progress: the title of a progress bar; none is shown without.
        processes: that share the examples.

    Raises:
        UserError: the model answers every example with inf or nan, or the folder cannot be used;
            what is finished is kept.
        AnotherFailed: another process did.
    """
    run, runners, reader, masking = attempt.run, attempt.runners, attempt.reader, attempt.masking
    kept = 0 if masking is None else masking.examples
    seen: set[int] = set()
    first: list[Any] = []
    checks: list[Check] = []
    with processes.together(), Store(run, output_dir, processes) as store:
        with tqdm(desc=progress, total=attempt.total, disable=progress is None) as bar:
            shared = _Shared(attempt, store, processes, bar)
            for chunk in attempt.chunks:
                if processes.main:
                    checks = checks or _looked_twice(attempt, store, chunk)
                for runner in runners:
                    shared.run(runner, chunk)
                seen.update(example.id for example in chunk)
                first.extend(chunk[: max(0, kept - len(first))])
            doubts = shared.joined(_doubts(runners))
        if not processes.main:
            return replace(run, records=tuple(store.records(list(run.hashes), seen)))
        everything = store.records(list(run.hashes), seen)
        records = [one for one in everything if one.attack not in attempt.aside]
        found = replace(run, records=tuple(records))
        if records and found.unanswered == found.examples:
            raise UserError(
                "The model cannot be evaluated: it answers every example with inf or nan. Its "
                "training has diverged, or its precision is too low: try float32."
            )
        if records and attempt.classes:
            checks.append(check_answers(Answers.of_records(records)))
        checks += record_checks(records, classes=attempt.classes)
        checks += attempt.more(records)
        if masking is not None and first:
            some = _masked(masking, reader, first, run, output_dir, progress=progress)
            checks += [one for one in some if one.name not in {check.name for check in checks}]
        cost = {} if attempt.work is None else store.cost(attempt.work())
    return replace(
        found,
        checks=checks,
        curves=[one.of(everything) for one in attempt.curves],
        cost=cost,
        notes=[*run.notes, *_unanswered(found), *(f"The model {one}" for one in doubts)],
    )


@dataclass
class _Shared:
    """What this process does of an attempt, and how far all of them are."""

    attempt: Attempt
    store: Store
    processes: Processes
    bar: Any
    turns: dict[str, int] = field(default_factory=dict)  # runner → portions dealt out
    done: int = 0  # records by this process
    others: int = 0  # and by the others, as far as shown
    looked: float = 0.0  # when this process last looked at the others

    def run(self, runner: Runner, examples: Sequence[Any]) -> None:
        """Its share of what is not in the store yet; each example is written down at once."""
        self.bar.set_postfix_str(runner.name, refresh=False)
        wanted = sum(map(runner.wants, examples))
        left = waiting(self.store, runner, examples)
        self.bar.update((wanted - sum(map(len, left))) * len(runner.radii))
        turn = self.turns.get(runner.name, 0)
        self.turns[runner.name] = turn + len(left)
        for record in runner.run(self.processes.share(left, turn)):
            if not self.store.has(record.attack, record.id, record.epsilon):
                self.store.add(record)
            if self.attempt.work is not None:
                self.store.cost(self.attempt.work())
            self.done += 1
            self.bar.update()
            if time.monotonic() - self.looked > _SECONDS:
                self.processes.check()
                self.processes.tell("records", self.done)
                self._show_others()
                self.looked = time.monotonic()

    def joined(self, doubts: list[str]) -> list[str]:
        """In the main process, what all have found: records in the store, counters, doubts."""
        counters = self.attempt.counters
        own = [getattr(one, name) for one, name in counters]
        if not self.processes.main:
            self.store.close()  # before the main process takes it over
            self.processes.tell("records", self.done)
            self.processes.tell("done", [own, doubts])
            return doubts
        for other in self.processes.others:
            theirs, more = self.processes.hear("done", other, self._show_others)
            own = [mine + one for mine, one in zip(own, theirs, strict=True)]
            doubts = list(dict.fromkeys([*doubts, *more]))
        for (one, name), total in zip(counters, own, strict=True):
            setattr(one, name, total)
        self._show_others()
        self.store.join()
        return doubts

    def _show_others(self) -> None:
        """Move the bar by what the other processes have done since."""
        if not self.processes.main:
            return
        others = sum(self.processes.told("records", n) or 0 for n in self.processes.others)
        self.bar.update(others - self.others)
        self.others = others


def _looked_twice(attempt: Attempt, store: Store, examples: Sequence[Any]) -> list[Check]:
    """A failed check where the model does not say the same of the first examples in two passes.

    A run that is finished runs no model.
    """
    left = {
        example.id
        for runner in attempt.runners
        for portion in waiting(store, runner, examples)
        for example in portion
    }
    todo = [example for example in examples if example.id in left]
    if not todo:
        return []
    found = check_repeatable(*attempt.reader.twice(todo[:_LOOKED_AT]))
    return [] if found.passed else [found]


def _masked(
    masking: Masking,
    reader: Reader,
    examples: Sequence[Any],
    run: Evaluation,
    folder: str | Path | None,
    *,
    progress: str | None,
) -> list[Check]:
    """The checks, made once a folder."""

    def make() -> list[dict[str, Any]]:
        parts = [examples[at : at + ROWS] for at in range(0, len(examples), ROWS)]
        with reader.opened():
            batches = [reader.batch(one) for part in parts for one in reader.portions(part)]
            title = "Checking for masking" if progress else None
            found = masking_checks(
                reader.subject, batches, masking.attack, classes=masking.classes, progress=title
            )
        return [asdict(one) for one in found]

    depends = [run.model, [(one.id, *reader.kept(one)[:1]) for one in examples], run.target]
    key = [attack_fingerprint(masking.attack, where=masking.where), len(examples)]
    return [Check(**one) for one in FinishedParts(folder, depends).part("checks", key, make)]


def _unanswered(found: Evaluation) -> list[str]:
    if not found.unanswered:
        return []
    return [
        f"The model answers {found.unanswered} of {found.examples} examples with inf or nan, which "
        f"count as wrong."
    ]


def _doubts(runners: Iterable[Runner]) -> list[str]:
    """What speaks against the numbers that were measured now."""
    return list(dict.fromkeys(chain.from_iterable(runner.doubts for runner in runners)))


def environment(model: nn.Module) -> dict[str, str]:
    """Versions and hardware that a number was made with."""
    parameter = a_tensor_of(model)
    device = parameter.device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "nlp_adv": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": f"{device.type} ({kind})",
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "threads": str(torch.get_num_threads()),
    }
