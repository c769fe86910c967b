"""Where labelled text comes from: a GLUE task, the Hub, a folder or files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from nlp_adv.data.files import FORMATS, cause, read_file, stem_and_kind
from nlp_adv.errors import UserError, no_such

GLUE_TASKS = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")

# How people call the splits; t10k is MNIST's.
SPLITS = {
    "train": "train",
    "validation": "validation",
    "validation_matched": "validation",
    "dev": "validation",
    "valid": "validation",
    "val": "validation",
    "validation_mismatched": "validation_mismatched",
    "test": "test",
    "test_matched": "test",
    "t10k": "test",
    "test_mismatched": "test_mismatched",
}


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where labelled text comes from; exactly one of a task, a data set or files must be named.

    Args:
        task_name: A GLUE task, downloaded from the Hub.
        dataset_name: A name on the Hub, a ``save_to_disk`` folder, or a folder with one file per
            split (train, validation or dev/valid/val, test).
        dataset_config_name: The configuration of a Hub data set.
        train_file: .csv, .tsv (never quoted), .json, .jsonl, their .gz, or .parquet.
        validation_file: As ``train_file``.
        test_file: As ``train_file``.
        text_columns: One column, or two for pairs; empty means the usual names are looked for.
        label_column: The label's column; None means the usual names are looked for.
        regression: True or False decides; None means regression for ``stsb`` and for numbers of
            which at least one in the train split is not whole, classes for everything else.
        max_train_samples: Keep this many training rows, drawn at random with ``seed``.
        max_eval_samples: Keep the first rows, this many, of every other split.
        seed: Seed of the draw.
        token: Of the Hub, for data that is not public.
    """

    task_name: str | None = None
    dataset_name: str | None = None
    dataset_config_name: str | None = None
    train_file: str | None = None
    validation_file: str | None = None
    test_file: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    regression: bool | None = None
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    seed: int = 0
    token: str | None = None


def read_splits(source: DataSource) -> dict[str, Dataset]:
    """Read the splits of a source, under their usual names and in their usual order."""
    found = _find_splits(source)
    return {name: found[name] for name in dict.fromkeys(SPLITS.values()) if name in found}


def _find_splits(source: DataSource) -> dict[str, Dataset]:
    files = {
        "train": source.train_file,
        "validation": source.validation_file,
        "test": source.test_file,
    }
    paths = {name: Path(file) for name, file in files.items() if file is not None}
    if sum(map(bool, (source.task_name, source.dataset_name, paths))) != 1:
        raise UserError(
            "Name exactly one source of data: a GLUE task_name, a dataset_name, or a train_file "
            "(with validation_file and test_file where you have them)."
        )
    if source.task_name and source.task_name not in GLUE_TASKS:
        raise no_such("GLUE task", source.task_name, GLUE_TASKS)
    if source.task_name:
        return _from_hub("nyu-mll/glue", source.task_name, source.token)
    if source.dataset_name:
        return read_named(source.dataset_name, source.dataset_config_name, token=source.token)
    return {name: read_file(path) for name, path in paths.items()}


def read_named(
    name: str,
    config: str | None = None,
    *,
    token: str | None = None,
    from_folder: Callable[[Path], dict[str, Dataset]] | None = None,
) -> dict[str, Dataset]:
    """The splits of a saved data set, of a folder of files, or of a name on the Hub.

    Args:
        name: a folder, or a name on the Hub.
        config: of a data set on the Hub.
        token: of the Hub.
        from_folder: what reads a folder; files of rows, one a split, without.

    Raises:
        UserError: it is not there, or damaged.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        saved = any((path / mark).is_file() for mark in ("dataset_dict.json", "state.json"))
        return _from_saved(path) if saved else (from_folder or _from_folder)(path)
    if path.is_file():
        raise UserError(f"{name} is a file, not a data set; pass it as train_file.")
    if path.is_absolute() or name.startswith(("~", ".")) or name.count("/") > 1 or "\\" in name:
        raise UserError(f"The data folder {name} does not exist; check the path.")
    return _from_hub(name, config, token)


def _from_hub(name: str, config: str | None, token: str | None) -> dict[str, Dataset]:
    try:
        loaded = load_dataset(name, config, token=token)
    except Exception as error:  # network, Hub and builder errors have no common base
        shown = name if config is None else f"{name} ({config})"
        raise UserError(
            f"Data set {shown} is no folder here and could not be loaded from the Hub "
            f"({cause(error)}); check its name and the network, or pass train_file, or a folder "
            "of files as dataset_name."
        ) from error
    return known_splits(loaded)


def _from_saved(path: Path) -> dict[str, Dataset]:
    try:
        loaded = load_from_disk(str(path))
    except Exception as error:  # a damaged folder fails in json, pyarrow or datasets
        raise UserError(
            f"The saved data set {path} cannot be read ({cause(error)}); it is damaged or has an "
            "empty split, so save it again with save_to_disk."
        ) from error
    return known_splits(loaded if isinstance(loaded, DatasetDict) else {"train": loaded})


def known_splits(loaded: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The splits that have a usual name, under it."""
    return {SPLITS[name]: split for name, split in loaded.items() if name in SPLITS}


def _from_folder(path: Path) -> dict[str, Dataset]:
    found: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        stem, kind = stem_and_kind(file)
        name = SPLITS.get(stem)
        if name is None or kind is None:
            continue
        if name in found:
            raise UserError(
                f"Folder {path} has two files for the {name} split ({found[name].name} and "
                f"{file.name}); keep one, or name the files one by one."
            )
        found[name] = file
    if "train" not in found:
        raise UserError(f"Folder {path} has no train file; add train with one of {FORMATS}.")
    return {name: read_file(file) for name, file in found.items()}
