"""Runs of TextAttack as records, so that they enter our tables with our intervals and tests.

TextAttack pins transformers below version 5 and is run in an environment of its own; its CSV log
(`--log-to-csv`) is all that passes between the two.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import NamedTuple

from nlp_adv.attacks.words.result import Outcome, WordResult
from nlp_adv.attacks.words.words import Words
from nlp_adv.errors import UserError
from nlp_adv.robustness.record import Record, record_of

_COLUMNS = (
    "original_text",
    "perturbed_text",
    "original_score",
    "perturbed_score",
    "original_output",
    "perturbed_output",
    "ground_truth_output",
    "num_queries",
    "result_type",
)
# "Maximized" names a goal without an end: whether the model was fooled is in its answer alone.
_OUTCOMES: dict[str, Outcome | None] = {
    "Successful": "fooled",
    "Failed": "robust",
    "Skipped": "wrong",
    "Maximized": None,
}
_MARK = re.compile(r"\[\[([^\[\]]+)\]\]")  # [[word]]
_PART = re.compile(r"(?:^|<SPLIT>)\[\[\[\[[^\[\]]+\]\]\]\]: ")  # [[[[Premise]]]]:


class _Text(NamedTuple):
    """A text as the log has it: without its marks, and how many it had."""

    text: str
    marks: int


def read_textattack_csv(path: str | Path, *, attack: str) -> list[Record]:
    """Read the CSV log of an untargeted attack on a classifier, in the styles "file" or "plain".

    What the log does not say is not invented: `id` is the row's number, so that runs compare where
    they attacked the same texts in the same order; `forwards` is `queries`, which TextAttack
    counts with those it answered from its cache; `tokens` is 0; `budget_stopped` is False. The
    untargeted score is 1 − p(label), so `confidence` is 1 − score where the answer is right, and
    nan where it is wrong. A changed word is a [[mark]]; in the style "plain", which has none, it is
    a word that differs. Of a pair, the part that changed is the attacked text and the rest its
    context, the last part where none changed; where several did, all together are the text. In the
    style "plain", a pair cannot be told from one text, and is read as one.

    Args:
        path: the file.
        attack: the name that the records get.

    Raises:
        UserError: the file cannot be read, lacks a column or a row, or holds a row that is not of
            an untargeted attack on a classifier; the message names its line.
    """
    records: list[Record] = []
    for number, row in _rows(Path(path)):
        try:
            records.append(_record(row, len(records), attack))
        except _BadRow as error:
            raise UserError(f"{path}, line {number}: {error}") from None
    if not records:
        raise UserError(f"{path} has no rows; give a log of at least one attacked text.")
    return records


class _BadRow(Exception):
    """What is wrong with a row: a sentence."""


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and content of each row."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8; save the file as UTF-8.") from None
    csv.field_size_limit(2**31 - 1)  # the default refuses texts beyond 128 KiB
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    start = 1
    try:
        for row in reader:
            if not header:
                header = row
                if missing := [name for name in _COLUMNS if name not in header]:
                    raise UserError(
                        f"{path} has no column {', '.join(missing)}; give a CSV log of TextAttack."
                    )
            elif row and len(row) != len(header):
                raise UserError(
                    f"{path}, line {start}: {len(row)} fields where the header has {len(header)}; "
                    "mend the row."
                )
            elif row:
                yield start, dict(zip(header, row, strict=True))
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {start}: {error}; mend the row.") from None


def _record(row: dict[str, str], number: int, attack: str) -> Record:
    label, prediction, adversarial_prediction, queries = (
        _whole(row, name)
        for name in ("ground_truth_output", "original_output", "perturbed_output", "num_queries")
    )
    outcome: Outcome = "robust" if adversarial_prediction == label else "fooled"
    if prediction != label:
        outcome = "wrong"
    result = row["result_type"]
    if result not in _OUTCOMES:
        raise _BadRow(f"the result_type is {result!r}; it must be {', '.join(_OUTCOMES)}.")
    if _OUTCOMES[result] not in (None, outcome):
        raise _BadRow(
            f"the result is {result}, but the answers are {prediction} and "
            f"{adversarial_prediction} where {label} is right; only logs of untargeted attacks on "
            "classifiers can be read."
        )
    before, after, context = _attacked(row["original_text"], row["perturbed_text"])
    words = Words.of(before.text)
    found = WordResult(
        id=number,
        attack=attack,
        original=before.text,
        adversarial=after.text,
        context=context,
        label=label,
        prediction=prediction,
        adversarial_prediction=adversarial_prediction,
        outcome=outcome,
        queries=queries,
        forwards=queries,
        tokens=0,
        words=len(words),
        words_changed=_changed(before, after, words),
        confidence=_confidence(row, "original_score", right=prediction == label),
        adversarial_confidence=_confidence(
            row, "perturbed_score", right=adversarial_prediction == label
        ),
        budget_stopped=False,
    )
    return record_of(found)


def _whole(row: dict[str, str], name: str) -> int:
    # Some versions of pandas write whole numbers as 1.0.
    match = re.fullmatch(r"([0-9]{1,18})(?:\.0)?", row[name].strip())
    if match is None:
        raise _BadRow(
            f"{name} is {row[name]!r:.40}, not a whole number; only logs of attacks on classifiers "
            "can be read."
        )
    return int(match[1])


def _confidence(row: dict[str, str], name: str, *, right: bool) -> float:
    try:
        score = float(row[name])
    except ValueError:
        score = math.nan
    if not -1e-6 <= score <= 1 + 1e-6:  # float32 rounding aside
        raise _BadRow(
            f"{name} is {row[name]!r:.40}, not between 0 and 1; only logs of untargeted attacks on "
            "classifiers can be read."
        )
    return min(max(1 - score, 0.0), 1.0) if right else math.nan


def _attacked(original: str, perturbed: str) -> tuple[_Text, _Text, str | None]:
    """The attacked text before and after, and what stands beside it."""
    before, after = _parts(original), _parts(perturbed)
    if len(before) != len(after):
        raise _BadRow("the two texts have not as many parts; write the log anew.")
    pairs = enumerate(zip(before, after, strict=True))
    moved = [i for i, (old, new) in pairs if old.text != new.text]
    if len(moved) > 1:
        return _joined(before), _joined(after), None
    chosen = moved[0] if moved else len(before) - 1
    others = [part.text for i, part in enumerate(before) if i != chosen]
    return before[chosen], after[chosen], "\n".join(others) if others else None


def _parts(logged: str) -> list[_Text]:
    """The parts of a pair, or the one text; TextAttack logs a line break as <SPLIT>, too."""
    parts = _PART.split(logged)[1:] if _PART.match(logged) else [logged]
    return [
        _Text(_MARK.sub(r"\1", part).replace("<SPLIT>", "\n"), len(_MARK.findall(part)))
        for part in parts
    ]


def _joined(parts: list[_Text]) -> _Text:
    return _Text("\n".join(part.text for part in parts), sum(part.marks for part in parts))


def _changed(before: _Text, after: _Text, words: Words) -> int:
    """Changed words: those put in, or those taken out where these are more."""
    if before.text == after.text:
        return 0  # whatever brackets it holds, they mark no change
    if before.marks or after.marks:
        return max(before.marks, after.marks)
    matcher = SequenceMatcher(None, words.words, Words.of(after.text).words, autojunk=False)
    return sum(
        max(i2 - i1, j2 - j1) for kind, i1, i2, j1, j2 in matcher.get_opcodes() if kind != "equal"
    )
