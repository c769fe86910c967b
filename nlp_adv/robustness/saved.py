"""An evaluation on disk: a header that says which run it is, the records, and what was found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nlp_adv.attacks.words.protocols import Protocol
from nlp_adv.errors import UserError
from nlp_adv.folders import alone_in, write_whole
from nlp_adv.report.content import Curve, ModelResult
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.records import RECORDS, Record, RecordWriter, read_records
from nlp_adv.robustness.statistics import Share

HEADER, COST = "evaluation.json", "cost.jsonl"
_IDENTITY = ("model", "data", "seed", "target")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured of one model.

    Args:
        protocol: of its attacks.
        hashes: attack → hash of all that its numbers depend on but model, data and seed.
        model, data: fingerprints.
        description: of the data, for people.
        seed: of the draw of texts and of the attacks.
        target: the class of targeted attacks.
        labels: names of the classes.
        records: one an example and attack.
        clean: right answers and texts, where more than the attacked ones were asked.
        checks: what may speak against these numbers.
        curves: of attacks on embeddings.
        cost: what it took, in all the parts of a run that was resumed.
        notes: what a reader must know besides.
        environment: versions and hardware.
        name: of the model; "" where nobody named it.
        shard: which part of the texts these records are of, such as "2/8"; None for all.
        texts: how many all of them are.
    """

    protocol: Protocol
    hashes: Mapping[str, str]
    model: str
    data: str
    description: str
    seed: int
    target: int | None = None
    labels: tuple[str, ...] = ()
    records: Sequence[Record] = ()
    clean: tuple[int, int] | None = None
    checks: Sequence[Check] = ()
    curves: Sequence[Curve] = ()
    cost: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    shard: str | None = None
    texts: int | None = None

    def result(
        self, name: str, seed: int | None = None, description: Mapping[str, Any] | None = None
    ) -> ModelResult:
        """As a report shows it.

        Args:
            name: of the method that trained the model.
            seed: of its training.
            description: of its training.
        """
        return ModelResult(
            name=name,
            seed=seed,
            records=self.records,
            checks=self.checks,
            clean=None if self.clean is None else Share(*self.clean),
            cost=self.cost,
            curves=self.curves,
            description=description or {},
        )


class Store:
    """The records of a run: on disk as they come where there is a folder, else in memory.

    Args:
        evaluation: what is being run.
        folder: where; None keeps records in memory.

    Raises:
        UserError: the folder holds another run, or cannot be written.
    """

    def __init__(self, evaluation: Evaluation, folder: str | Path | None) -> None:
        self._evaluation = evaluation
        self._folder = None if folder is None else Path(folder)
        self._records: dict[tuple[str, int], Record] = {}
        self._writer: RecordWriter | None = None
        self._spent: dict[str, float] = {}  # by the runs before this one
        self._open = ExitStack()

    def __enter__(self) -> Store:
        if self._folder is None:
            return self
        with ExitStack() as opened:
            opened.enter_context(alone_in(self._folder))
            before = _resumed(self._folder, self._evaluation)
            self._spent = _spent(self._folder, before)
            self._records = {(record.attack, record.id): record for record in before}
            self._writer = opened.enter_context(RecordWriter(self._folder / RECORDS))
            self._open = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def has(self, attack: str, number: int) -> bool:
        """Whether an example is finished."""
        return (attack, number) in self._records

    def add(self, record: Record) -> None:
        """Keep one more."""
        if self._writer is not None:
            self._writer.write(record)
        self._records[record.attack, record.id] = record

    def cost(self, work: Mapping[str, float]) -> dict[str, float]:
        """What this run did, and the ones before it; written down beside the records.

        A run that is killed has done all that stood here after its last record.
        """
        total = {name: self._spent.get(name, 0) + value for name, value in work.items()}
        if self._folder is not None:
            line = json.dumps({"records": len(self._records), **total}) + "\n"
            try:
                with (self._folder / COST).open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                raise UserError(f"{self._folder} cannot be written ({error.strerror}).") from error
        return total

    def records(self, attacks: Sequence[str], ids: set[int]) -> list[Record]:
        """Those of some attacks and examples, in the order of both; "name@ε" belongs to "name"."""
        order = {name: place for place, name in enumerate(attacks)}
        chosen = [
            record
            for record in self._records.values()
            if record.attack.split("@")[0] in order and record.id in ids
        ]
        place = {record.attack: n for n, record in enumerate(chosen)}
        return sorted(chosen, key=lambda r: (order[r.attack.split("@")[0]], place[r.attack], r.id))


def _resumed(folder: Path, evaluation: Evaluation) -> list[Record]:
    """Records of the same run that are there already; begins the folder where there are none."""
    header, records = folder / HEADER, folder / RECORDS
    ours = identity(evaluation)
    if header.exists():
        theirs = _read_header(header)
        for key in _IDENTITY:
            if theirs.get(key) != ours[key]:
                raise UserError(
                    f"{folder} holds the records of another run (its {key} is "
                    f"{theirs.get(key)!r}, not {ours[key]!r}); give another --output_dir."
                )
        for attack, one in theirs.get("hashes", {}).items():
            if evaluation.hashes.get(attack, one) != one:
                raise UserError(
                    f"{folder} holds records of {attack} under another protocol, or with other "
                    f"resources ({one}, not {evaluation.hashes[attack]}); give another "
                    f"--output_dir."
                )
        ours["hashes"] = theirs.get("hashes", {}) | ours["hashes"]
    elif records.exists():
        raise UserError(f"{folder} holds records of an unknown run; give another --output_dir.")
    _write(folder, ours)
    return read_records(records) if records.exists() else []


def _spent(folder: Path, before: Sequence[Record]) -> dict[str, float]:
    """What the runs that made these records had done by then; the file keeps that alone.

    Where it is missing, what stands in the records themselves.
    """
    records = len(before)
    found: dict[str, float] = {
        name: sum(getattr(record, name) for record in before) for name in ("forwards", "tokens")
    }
    path = folder / COST
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        try:
            entry = json.loads(line)
            if entry.pop("records") <= records:
                found = {name: value + 0 for name, value in entry.items()}
        except (
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
        ):  # half of a line of a killed run
            continue
    write_whole(path, json.dumps({"records": records, **found}) + "\n")
    return found


def identity(evaluation: Evaluation) -> dict[str, Any]:
    """What makes two runs the same."""
    return {
        "protocol": evaluation.protocol.described(),
        "hashes": dict(evaluation.hashes),
        "model": evaluation.model,
        "data": evaluation.data,
        "description": evaluation.description,
        "seed": evaluation.seed,
        "target": evaluation.target,
        "labels": list(evaluation.labels),
    }


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); remove its folder and run again.") from error
    if not isinstance(header, dict):
        raise UserError(f"{path} is damaged; remove its folder and run again.")
    return header


def save(folder: Path, evaluation: Evaluation) -> None:
    """Write down what was found beside the records, which are there already.

    Raises:
        UserError: the folder cannot be written.
    """
    found = {
        "clean": evaluation.clean,
        "checks": [asdict(check) for check in evaluation.checks],
        "curves": [
            {
                "title": curve.title,
                "x_label": curve.x_label,
                "points": [[e, share.count, share.total] for e, share in curve.points.items()],
            }
            for curve in evaluation.curves
        ],
        "cost": dict(evaluation.cost),
        "notes": list(evaluation.notes),
        "environment": dict(evaluation.environment),
        "name": evaluation.name,
        "shard": evaluation.shard,
        "texts": evaluation.texts,
    }
    _write(folder, identity(evaluation) | {"found": found})


def load(folder: Path) -> Evaluation:
    """A saved evaluation.

    Raises:
        UserError: there is none, it is damaged, or it was not finished.
    """
    header = folder / HEADER
    if not header.exists():
        raise UserError(f"{folder} holds no evaluation; run nlp-adv attack with it first.")
    saved = _read_header(header)
    found = saved.get("found")
    if found is None:
        raise UserError(f"The evaluation in {folder} was not finished; run its command again.")
    try:
        curves = [
            Curve(
                title=curve["title"],
                x_label=curve["x_label"],
                points={epsilon: Share(*counts) for epsilon, *counts in curve["points"]},
            )
            for curve in found["curves"]
        ]
        return Evaluation(
            protocol=Protocol(**_settings(saved["protocol"])),
            hashes=saved["hashes"],
            model=saved["model"],
            data=saved["data"],
            description=saved["description"],
            seed=saved["seed"],
            target=saved["target"],
            labels=tuple(saved["labels"]),
            records=read_records(folder / RECORDS),
            clean=None if found["clean"] is None else tuple(found["clean"]),
            checks=[Check(**check) for check in found["checks"]],
            curves=curves,
            cost=found["cost"],
            notes=found["notes"],
            environment=found["environment"],
            name=found.get("name", ""),
            shard=found.get("shard"),
            texts=found.get("texts"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{header} is damaged ({error}); remove its folder and run again."
        ) from error


def _settings(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol's fields as they are now; at first the one list of stop words was another."""
    stops = protocol["stop_words"]
    return {**protocol, "stop_words": "scikit-learn" if stops is False else stops}


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / HEADER, text + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}).") from error
