"""Where fetched resources lie, for commands that need one and were not given another."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nlp_adv.cli.resource_list import RESOURCES

VARIABLE = "NLP_ADV_RESOURCES"


def folder() -> Path:
    """`$NLP_ADV_RESOURCES`, or `nlp_adv` in the folder where the platform keeps caches."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "nlp_adv"
    root = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return Path(root or Path.home() / ".cache") / "nlp_adv"


def fetched(name: str, within: Path | None = None) -> Path | None:
    """The file or folder of a resource; None where it is not there.

    Args:
        name: of the resource.
        within: the folder of resources; the usual one without.
    """
    file = RESOURCES[name].file
    path = (within or folder()) / file
    return path if file and path.exists() else None


def at_hand(name: str) -> Path | None:
    """The same, saying on the terminal that it is used: nobody named it on this command line."""
    path = fetched(name)
    if path is not None:
        print(f"Taking {name} from {path}.", file=sys.stderr)
    return path
