"""A resource as it comes, by network or as a local file, and as it is kept.

Everything is checked in memory or in a folder beside the place, and then put there in one stroke:
what fails leaves nothing half-written, and leaves what was there before.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import shutil
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from nlp_adv.attacks.words.candidates import CandidateTable, WordNet
from nlp_adv.attacks.words.candidates.nearest import nearest_words, read_vectors
from nlp_adv.cli.resource_list import Resource
from nlp_adv.errors import UserError
from nlp_adv.folders import write_whole
from nlp_adv.unpacking import open_unpacked

_LARGEST = 2**30  # bytes of a file; the counter-fitted vectors have about 200 million
_SECONDS = 60  # without a byte, after which a download has failed
_ADVGLUE = {
    "sst2": ("sentence",),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "mnli-mm": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
}
_JSON = re.compile(rb"(\xef\xbb\xbf)?\s*[\[{]\s*[\"\[{\]}]")  # as an object or a list begins
_DAMAGED = (gzip.BadGzipFile, zipfile.BadZipFile, EOFError, zlib.error)


class Taken(NamedTuple):
    """What `take` did.

    Attributes:
        place: where the resource lies.
        sha256: of what came.
        warning: what whoever relies on it should know; "" for nothing.
    """

    place: Path
    sha256: str
    warning: str


def take(resource: Resource, source: Path | None, folder: Path) -> Taken:
    """Fetch a resource, or take a local file, check it, and keep it.

    Args:
        resource: one that is kept.
        source: the local file; without, the network is asked.
        folder: of resources; it is made.

    Raises:
        UserError: it cannot be had, is another file than the known one, or has another format.
    """
    came = _downloaded(resource) if source is None else _local(resource, source)
    digest = hashlib.sha256(came).hexdigest()
    known, warning = resource.sha256, ""
    if not known:
        warning = (
            f"No checksum of {resource.name} is known, so nobody can say whether this is the file "
            f"that it should be; that of what came is written down."
        )
    elif digest != known and source is None:
        raise UserError(
            f"{resource.url} has SHA-256 {digest}, not {known}: it is damaged or has changed. "
            f"Nothing was kept; fetch it yourself and give it with --from FILE if it is right."
        )
    elif digest != known:
        warning = f"{source} is another file than the published one (SHA-256 {known})."
    where = str(source) if source is not None else resource.url
    place = folder / resource.file
    with _beside(folder) as unfinished:
        new = unfinished / resource.file
        _FORMATS[resource.name.removesuffix("-originals")](came, where, new)
        _put(new, place)
        settings = {
            "resource": resource.name,
            "from": where,
            "sha256": digest,
            "as_published": digest == known if known else None,
            "licence": resource.licence,
            "taken": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        write_whole(folder / f"{resource.file}.source.json", json.dumps(settings, indent=2) + "\n")
    return Taken(place, digest, warning)


def _downloaded(resource: Resource) -> bytes:
    try:
        with urllib.request.urlopen(resource.url, timeout=_SECONDS) as answer:
            content: bytes = answer.read(_LARGEST + 1)
    except (OSError, HTTPException) as error:  # a URLError is an OSError
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise UserError(
            f"{resource.url} could not be fetched ({' '.join(str(reason).split())}); fetch it on a "
            f"machine with a network and run nlp-adv resources get {resource.name} --from FILE."
        ) from error
    if len(content) > _LARGEST:
        raise UserError(f"{resource.url} is larger than {_LARGEST >> 20} MiB; nothing was kept.")
    return content


def _local(resource: Resource, source: Path) -> bytes:
    """A file's content, unpacked; WordNet's folder packed as NLTK packs it."""
    try:
        if source.is_dir() and resource.name == "wordnet":
            return _packed(source)
        packed = source.suffix == ".gz"
        with open_unpacked(source, packed=packed, most=_LARGEST) as file:
            content = file.read()
        if source.suffix == ".zip" and resource.name != "wordnet":
            return _only_member(source, content)
        return content
    except _DAMAGED as error:
        raise UserError(f"{source} is damaged ({error}); fetch it again.") from error
    except OSError as error:
        raise UserError(f"{source} cannot be read ({error.strerror}); check the path.") from error


def _only_member(source: Path, content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [one for one in archive.infolist() if not one.is_dir()]
        if len(names) != 1 or names[0].file_size > _LARGEST:
            raise UserError(f"{source} must hold one file of at most {_LARGEST >> 20} MiB.")
        return archive.read(names[0])


def _packed(source: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(source.iterdir()):
            if file.is_file():
                # The time is part of the archive and would change its checksum.
                archive.writestr(zipfile.ZipInfo(f"wordnet/{file.name}"), file.read_bytes())
    return buffer.getvalue()


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder on the same disk, so that what is finished there only has to be renamed."""
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    except OSError as error:
        raise UserError(
            f"{folder} cannot hold resources ({error.strerror}); name another folder with --to."
        ) from error
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if made:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _put(new: Path, place: Path) -> None:
    if place.is_dir():  # a folder cannot be replaced in one stroke where it is not empty
        place.rename(new.with_name("before"))
    new.replace(place)


def _neighbours(came: bytes, where: str, place: Path) -> None:
    """A candidate table as it is, or one that is built from vectors."""
    if not _JSON.match(came):
        lines = io.TextIOWrapper(io.BytesIO(came), "utf-8")
        try:
            words, vectors = read_vectors(lines, where)
        except UnicodeDecodeError as error:
            raise UserError(f"{where} is neither vectors in UTF-8 text nor JSON.") from error
        table = nearest_words(words, vectors)
        came = json.dumps(table, ensure_ascii=False).encode()
    place.write_bytes(came)
    try:
        CandidateTable(place)
    except UserError as error:
        raise UserError(str(error).replace(str(place), where)) from error


def _wordnet(came: bytes, where: str, place: Path) -> None:
    place.write_bytes(came)
    try:
        WordNet(place.with_suffix(""))
    except UserError as error:
        raise UserError(
            f"{where} is not WordNet: give its folder, which has index.noun, or NLTK's wordnet.zip."
        ) from error


def _advglue(came: bytes, where: str, place: Path) -> None:
    """A file a task, with the columns that the other commands find."""
    try:
        tasks = json.loads(came)
        place.mkdir()
        for task, columns in _ADVGLUE.items():
            names = ("text",) if len(columns) == 1 else ("sentence1", "sentence2")
            rows = (
                {name: row[column] for name, column in zip(names, columns, strict=True)}
                | {"label": row["label"]}
                for row in tasks[task]
            )
            _write_rows(place / f"{task.replace('-', '_')}.jsonl", rows)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{where} is not AdvGLUE's dev.json, which has rows of {', '.join(_ADVGLUE)} ({error})."
        ) from error


def _reviews(came: bytes, where: str, place: Path) -> None:
    labels = {"Negative": 0, "Positive": 1}
    try:
        rows = [
            {"text": row["Text"], "label": labels[row["Sentiment"]]}
            for row in csv.DictReader(io.StringIO(came.decode(), newline=""), delimiter="\t")
        ]
    except (ValueError, KeyError, csv.Error) as error:
        raise UserError(f"{where} must have the columns Sentiment and Text ({error}).") from error
    _write_rows(place, _some(rows, where))


def _prompts(came: bytes, where: str, place: Path) -> None:
    """The columns Goal and Target, however they are written, as prompt and target."""
    try:
        rows = [
            {
                {"goal": "prompt"}.get(name.lower(), name.lower()): value
                for name, value in row.items()
                if name.lower() in ("goal", "prompt", "target")
            }
            for row in csv.DictReader(io.StringIO(came.decode("utf-8-sig"), newline=""))
        ]
    except (ValueError, AttributeError, csv.Error) as error:
        raise UserError(f"{where} is no CSV with the columns goal and target ({error}).") from error
    if any(not row.get("prompt") for row in rows):
        raise UserError(f"{where} must have a column goal or prompt, with a text in every row.")
    _write_rows(place, _some(rows, where))


def _some(rows: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    if not rows:
        raise UserError(f"{where} has no rows.")
    return rows


def _write_rows(place: Path, rows: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    place.write_text(text, encoding="utf-8")


# Resource: bytes, where they are from, where they go.
_FORMATS: dict[str, Callable[[bytes, str, Path], None]] = {
    "neighbours": _neighbours,
    "wordnet": _wordnet,
    "advglue": _advglue,
    "counterfactual-imdb": _reviews,
    "harmful-prompts": _prompts,
    "benign-prompts": _prompts,
}
