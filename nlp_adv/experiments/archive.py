"""Finished cells in small files: all that a report needs, without texts and without weights.

    FOLDER/METHOD-seedSEED.zip: evaluation.json, records.jsonl, training.json

They are to be committed or sent, so that a comparison can go on on another machine. The texts are
left out because they belong to whoever owns the data, and are most of the size; each record keeps
the digits of its text, by which it is known elsewhere.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

from nlp_adv.errors import UserError
from nlp_adv.experiments.cells import TRAINING, Cell
from nlp_adv.folders import FolderTaken, alone_in, write_whole
from nlp_adv.robustness.record import line
from nlp_adv.robustness.records import RECORDS
from nlp_adv.robustness.saved import HEADER, load

_MEMBERS = (TRAINING, RECORDS, HEADER)  # in this order: a cell with a header is whole
_LARGEST = 2**28  # bytes of a member: an evaluation of 1000 texts has some 2 million


def exchange(cell: Cell, archive: Path) -> None:
    """Make a cell that is finished on one side, its folder or the archive, finished on both.

    A cell that another process is at is left alone.

    Raises:
        UserError: its file cannot be read or written.
    """
    file = archive / f"{cell.folder.name}.zip"
    try:
        if cell.evaluated and not file.exists():
            archive.mkdir(parents=True, exist_ok=True)
            write_whole(file, packed(cell))
        elif file.exists() and not cell.evaluated:
            with alone_in(cell.folder):
                _unpack(file, cell.folder)
    except FolderTaken:
        pass
    except OSError as error:
        raise UserError(f"{file} cannot be read or written ({error.strerror}).") from error


def packed(cell: Cell) -> bytes:
    """The file's content: the same bytes for the same cell."""
    found = load(cell.folder)
    contents = {
        TRAINING: json.dumps(cell.training, indent=2, ensure_ascii=False).encode(),
        RECORDS: b"".join(line(record.without_text()) for record in found.records),
        HEADER: (cell.folder / HEADER).read_bytes(),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as file:
        for name in _MEMBERS:
            member = zipfile.ZipInfo(name)  # its date is 1980, whenever it is written
            file.writestr(member, contents[name], zipfile.ZIP_LZMA)
    return buffer.getvalue()


def _unpack(path: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(path) as file:
            if any(file.getinfo(name).file_size > _LARGEST for name in _MEMBERS):
                raise UserError(f"{path} is no finished cell: it would fill the disk.")
            contents = {name: file.read(name) for name in _MEMBERS}
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError) as error:
        raise UserError(
            f"{path} is no finished cell ({error}); remove it to run the cell again."
        ) from error
    for name, content in contents.items():
        write_whole(folder / name, content)
