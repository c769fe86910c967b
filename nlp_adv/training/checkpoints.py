"""From which checkpoints a run can go on: whole ones that the same method made.

A Trainer writes a checkpoint file by file, its state last, so a kill or a full disk leaves a folder
that looks like a checkpoint and is none; and it resumes without a word where the optimizer, the
scheduler or the random state is missing.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nlp_adv.errors import UserError
from nlp_adv.training.records import CONFIG_NAME

STATE = "trainer_state.json"
MEMORY = "adversarial_memory_{rank}_of_{processes}.pt"
# In a checkpoint's configuration: how many processes kept something. Without it a file that was
# lost could not be told from one that there never was.
MEMORY_PROCESSES = "memory_of_processes"
_FOLDER = re.compile(r"checkpoint-(\d+)")
_WEIGHTS = (
    "*.safetensors",
    "pytorch_model*.bin",
    "adapter_model.bin",
    "*/adapter_model.*",
    "pytorch_model_fsdp*",
    "global_step*",
)


def lack(checkpoint: Path, args: Any, *, everything: bool = True) -> str | None:
    """What a checkpoint lacks, such as "has no scheduler.pt"; None where it is whole.

    Args:
        checkpoint: the folder.
        args: training arguments of the run that would go on from it.
        everything: whether the same run must go on, and not only its weights.

    Cost: JSON files are read; of weights and optimizer, beginning and end.
    """
    if not (checkpoint / STATE).is_file():
        return f"has no {STATE}, which is written last"
    for file in sorted(checkpoint.rglob("*")):
        if file.is_file() and _is_cut(file):
            return f"has a damaged {file.relative_to(checkpoint)}"
    if not isinstance(_object(checkpoint / STATE).get("global_step"), int):
        return f"has a damaged {STATE}"
    if not any(found for pattern in _WEIGHTS for found in checkpoint.glob(pattern)):
        return "has no weights"
    missing = list(_missing(checkpoint, args)) if everything else []
    shards = {
        name
        for index in checkpoint.glob("*.index.json")
        for name in _object(index).get("weight_map", {}).values()
    }
    missing += sorted(name for name in shards if not (checkpoint / str(name)).is_file())
    return f"has no {missing[0]}" if missing else None


def _missing(checkpoint: Path, args: Any) -> Iterable[str]:
    if args.deepspeed:  # which has files of its own
        return
    for name, pattern in {
        "optimizer.pt": "optimizer*",  # FSDP gives it another ending, or makes a folder of it
        "scheduler.pt": "scheduler.pt",
        "rng_state.pth": "rng_state*.pth",  # with the number of the process
    }.items():
        if not any(checkpoint.glob(pattern)):
            yield name
    ranks = [args.process_index] if args.save_on_each_node else range(args.world_size)
    by_one = (checkpoint / "rng_state.pth").is_file()
    if args.world_size > 1 and not by_one:
        names = (f"rng_state_{rank}.pth" for rank in ranks)
        yield from (name for name in names if not (checkpoint / name).is_file())
    processes = memory_processes(checkpoint)
    if processes == args.world_size:
        names = (MEMORY.format(rank=rank, processes=processes) for rank in ranks)
        yield from (name for name in names if not (checkpoint / name).is_file())


def memory_processes(checkpoint: Path) -> int | None:
    """How many processes kept something from step to step; None where no method did."""
    written = _object(checkpoint / CONFIG_NAME).get(MEMORY_PROCESSES)
    if written is not None:
        return int(written)
    files = checkpoint.glob(MEMORY.format(rank="*", processes="*"))
    return next((int(file.stem.rpartition("_")[2]) for file in files), None)


def newest_whole(
    folder: Path, args: Any, *, everything: bool = True
) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a folder that is whole, and what the newer ones lack.

    Args:
        folder: the output folder of the run.
        args, everything: see `lack`.
    """
    steps = {
        int(match[1]): one
        for one in (folder.iterdir() if folder.is_dir() else ())
        if (match := _FOLDER.fullmatch(one.name)) and one.is_dir()
    }
    skipped: list[str] = []
    for step in sorted(steps, reverse=True):
        what = lack(steps[step], args, everything=everything)
        if what is None:
            return steps[step], skipped
        skipped.append(f"{steps[step].name} {what}")
    return None, skipped


def check_same_method(checkpoint: Path, description: Mapping[str, Any]) -> None:
    """Refuse to go on with another method, or with other numbers of it.

    The version of nlp_adv may be another one; numbers that one of the two versions does not know
    are then not compared.

    Args:
        checkpoint: its folder.
        description: of the run, see `run_description`.

    Raises:
        UserError: they differ; it says in what.
    """
    theirs, ours = _object(checkpoint / CONFIG_NAME), json.loads(json.dumps(description))
    way_out = (
        f"resume with what it was trained with, or begin a new run with its weights "
        f"(--model_name_or_path {checkpoint})."
    )
    before, now = theirs.get("method", "none"), ours["method"]
    if before != now:
        raise UserError(
            f"{checkpoint} was trained with {_called(before)} and this run with {_called(now)}: "
            f"{way_out}"
        )
    if theirs.get("words") != ours.get("words"):
        was, is_now = (one.get("words") or "no attack on words" for one in (theirs, ours))
        raise UserError(
            f"{checkpoint} was trained with {was} and this run with {is_now}: {way_out}"
        )
    if now == "none":
        return
    about = {"nlp_adv_version", MEMORY_PROCESSES, "begun_at"}
    if "span" not in ours:  # the default's, which only a minibatch tells
        about.add("span")
    same_version = theirs.get("nlp_adv_version") == ours["nlp_adv_version"]
    names = theirs.keys() | ours.keys() if same_version else theirs.keys() & ours.keys()
    differ = [name for name in (*ours, *theirs) if name in names - about]
    differ = [name for name in dict.fromkeys(differ) if theirs.get(name) != ours.get(name)]
    if differ:
        shown = ", ".join(f"{n} {theirs.get(n)} (this run: {ours.get(n)})" for n in differ)
        raise UserError(f"{checkpoint} was trained with {_called(now)} and {shown}: {way_out}")


def _called(method: str) -> str:
    return "no attack" if method == "none" else f"--adv {method}"


def _object(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_cut(file: Path) -> bool:
    """Whether a file ends before its end, for the kinds of files that say where it is."""
    try:
        if file.suffix == ".json":
            json.loads(file.read_bytes())
        elif file.suffix == ".safetensors":
            return _length_of(file) != file.stat().st_size
        elif file.suffix in (".pt", ".pth", ".bin"):
            with zipfile.ZipFile(file) as archive:  # its table of contents is at its end
                return not archive.namelist()
    except (OSError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile):
        return True
    return False


def _length_of(file: Path) -> int:
    """How long a safetensors file must be by its header: 8 bytes, the header, the tensors."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > file.stat().st_size:
            return -1
        header = json.loads(opened.read(length))
    ends = [one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"]
    return 8 + length + max(ends, default=0)
