"""Data files: read one into a data set, or say which line is at fault."""

from __future__ import annotations

import csv
import glob
import gzip
import json
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value, load_dataset

from nlp_adv.errors import UserError
from nlp_adv.unpacking import open_unpacked

_KINDS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
FORMATS = ".csv, .tsv, .json or .jsonl (each also with .gz) or .parquet"


def stem_and_kind(path: Path) -> tuple[str, str | None]:
    """Return a file's name without its endings, and its format, None if that is unknown."""
    packed = path.suffix == ".gz"
    inner = path.with_suffix("") if packed else path
    kind = _KINDS.get(inner.suffix)
    return inner.stem, None if packed and kind == "parquet" else kind


def read_file(path: Path) -> Dataset:
    """Read a file; columns of .csv and .tsv are text.

    Raises:
        UserError: The file is missing, empty or damaged; the message names the line where one is.
    """
    kind = stem_and_kind(path)[1]
    if path.is_dir() or not path.exists():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"Data file {path} {what}; check the path.")
    if kind is None:
        raise UserError(f"Data file {path} has an unknown format; use {FORMATS}.")
    options: dict[str, Any] = {}
    if kind == "csv":
        tabs = ".tsv" in path.suffixes
        dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
        # Read as text: pandas would make None of the word "NA" and 7 of the text "007".
        header = _checked_header(path, dialect)
        features = Features({column: Value("string") for column in header})
        options = {"features": features, "keep_default_na": False, **dialect}
    if kind == "json":
        # Bytes that are not UTF-8 would load, and fail only when the row is used.
        deque(_lines(path), maxlen=0)
    try:
        return load_dataset(kind, data_files=glob.escape(str(path)), split="train", **options)
    except Exception as error:  # builders let through whatever their parser raises
        if kind == "json":
            _check_json(path)
        raise UserError(
            f"Data file {path} cannot be read as {kind} ({cause(error)}); write it anew."
        ) from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with open_unpacked(path, packed=path.suffix == ".gz") as file:
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}, line {number}: not UTF-8; save the file as UTF-8.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(
            f"{path}, after line {number}: the gzip data is damaged or cut off; fetch or pack the "
            "file again."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check it.") from error


def _checked_header(path: Path, dialect: dict[str, Any]) -> list[str]:
    # pandas fills short rows with None and stays silent, so every row is counted first.
    csv.field_size_limit(2**31 - 1)  # the default refuses documents beyond 128 KiB
    reader = csv.reader((line for _, line in _lines(path)), strict=True, **dialect)
    header: list[str] = []
    start = rows = 0
    try:
        for row in reader:
            if row and len(row) != len(header or row):
                raise UserError(
                    f"{path}, line {start + 1}: {len(row)} fields where the header has "
                    f"{len(header)}; mend the row, or quote fields that hold the separator."
                )
            header, rows = header or row, rows + bool(row)
            start = reader.line_num
    except csv.Error as error:
        raise UserError(f"{path}, line {start + 1}: {error}; mend the row.") from None
    if len(set(header)) != len(header):
        raise UserError(f"{path}, line 1: two columns have the same name; rename one.")
    if rows < 2:
        raise UserError(f"Data file {path} is empty; give it at least one row.")
    return header


def _check_json(path: Path) -> None:
    """Raise for the first line that is at fault, if any is."""
    lines = list(_lines(path))
    text = "".join(line for _, line in lines).strip()
    if text in ("", "[]"):
        raise UserError(f"Data file {path} is empty; give it at least one row.")
    if text.startswith("["):
        lines = [(1, "".join(line for _, line in lines))]
    for number, line in lines:
        try:
            value = json.loads(line.rstrip()) if line.strip() else {}
        except json.JSONDecodeError as error:
            where = number + error.lineno - 1
            raise UserError(f"{path}, line {where}: bad JSON ({error.msg}); mend it.") from None
        if not all(
            isinstance(row, dict) for row in (value if isinstance(value, list) else [value])
        ):
            raise UserError(
                f"{path}, line {number}: not a JSON object; write one object per row, such as "
                '{"text": "…", "label": 0}.'
            )


def cause(error: BaseException) -> str:
    """Return the first line of what went wrong."""
    # datasets wraps the parser's error in one that says nothing.
    error = error.__cause__ or error
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
