"""Parts of an evaluation that need not be done again, such as checks, by what they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nlp_adv.errors import UserError
from nlp_adv.folders import write_whole

FINISHED = "finished.json"


class FinishedParts:
    """Results in a folder, each with the hash of all that it depends on.

    Args:
        folder: beside the records; None keeps nothing.
        depends: what all parts depend on: model, images.
    """

    def __init__(self, folder: str | Path | None, depends: Any) -> None:
        self._path = None if folder is None else Path(folder) / FINISHED
        self._depends = depends

    def part(self, name: str, settings: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, as JSON; made once for equal settings.

        Raises:
            UserError: the folder cannot be written.
        """
        if self._path is None:
            return make()
        content = json.dumps([self._depends, settings], sort_keys=True, default=str)
        key = hashlib.sha256(content.encode()).hexdigest()[:12]
        there = _read(self._path).get(name, {})
        if there.get("key") == key:
            return there["found"]
        found = make()
        parts = _read(self._path) | {name: {"key": key, "found": found}}
        try:
            write_whole(self._path, json.dumps(parts) + "\n")
        except OSError as error:
            raise UserError(f"{self._path} cannot be written ({error.strerror}).") from error
        return found


def _read(path: Path) -> dict[str, Any]:
    """Nothing of a file that is missing or damaged: it holds nothing that cannot be redone."""
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return parts if isinstance(parts, dict) else {}
