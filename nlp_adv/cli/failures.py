"""What an exception means to the person who typed the command, in one sentence.

Libraries raise what they like for a damaged file, a full disk or a missing package. Those are not
faults of this package, so they are told apart here: by type, by text where a library has no type
for it, and by who raised them. What is left over is a fault, and `main` says so.
"""

from __future__ import annotations

import dis
import errno
import json
import os
import pickle
import re
import select
import sys
import zipfile
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import TextIO

from nlp_adv.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_DAMAGED = (
    json.JSONDecodeError,
    UnicodeDecodeError,
    EOFError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
)
_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "std::bad_alloc")
_BEYOND = ("index out of range in self", "device-side assert")
_NETWORK = ("huggingface_hub", "httpx", "httpx2", "httpcore", "requests", "urllib3")
# Packages whose own exception types are about data and files that they were given.
_OF_DATA = ("datasets", "pyarrow", "pandas", "PIL", "optuna", "yaml", "filelock")
_DEBUG = "--debug shows where"
_CAN_BE_MEANT = (ValueError, RuntimeError, NotImplementedError, ImportError, OSError)


def sentence(error: BaseException) -> str | None:
    """The cause and the way out; None for what nobody but this package's authors can mend."""
    if isinstance(error, UserError):
        said = _one_line(error)  # what a library said may be inside, without a full stop
        return said if said.endswith((".", "?", "!", "…")) else f"{said}."
    if isinstance(error, MemoryError) or _says(error, *_MEMORY):
        return (
            f"The memory is not enough ({_cause(error)}); take smaller batches "
            f"(--per_device_train_batch_size, --tokens_per_batch, --batch_size), shorter inputs "
            f"(--max_seq_length), or another device."
        )
    if isinstance(error, ImportError):
        return _missing(error)
    if isinstance(error, BrokenPipeError):  # of a process, since the readers are still there
        return None
    if _module(error) in _NETWORK or isinstance(error, ConnectionError | TimeoutError):
        return (
            f"The Hugging Face Hub could not be reached, or refused ({_cause(error)}); check the "
            f"name, the network and your token, or leave --push_to_hub out."
        )
    if isinstance(error, OSError):
        return _of_system(error)
    if _module(error) in ("safetensors", "pyo3_runtime"):
        return _of_rust(error)
    if isinstance(error, _DAMAGED):
        return (
            f"A file that was read is damaged ({_cause(error)}); fetch or write it again, or leave "
            f"it out ({_DEBUG})."
        )
    if _says(error, *_BEYOND):
        return (
            "A token or a position lies beyond the model's embeddings: give the tokenizer that "
            "belongs to the model, or a smaller --max_seq_length."
        )
    if _says(error, "forward() got an unexpected keyword argument"):
        return f"Tokenizer and model do not belong together: {_cause(error)}; give the model's own."
    if _module(error) in _OF_DATA or _is_meant(error) or _of_users_model(error):
        return f"{_cause(error)} ({_DEBUG})."
    return None


def _missing(error: ImportError) -> str | None:
    package = (error.name or "").partition(".")[0]
    if package == "nlp_adv":
        return None
    if isinstance(error, ModuleNotFoundError) and package:
        return f"The package {package} is needed and not installed: pip install {package}."
    return f"{_cause(error)} ({_DEBUG})."


def _of_system(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename is not None else ""
    if error.errno in _FULL:
        return (
            f"{where}the disk is full or a limit is reached ({error.strerror}); free some space, "
            f"or name a folder elsewhere (--output_dir)."
        )
    if error.errno in _FORBIDDEN:
        return (
            f"{where}it may not be read or written ({error.strerror}); change its permissions, or "
            f"name another place."
        )
    if error.errno is not None and error.strerror:
        return f"{where}{error.strerror}; check the path."
    return f"{_cause(error)} ({_DEBUG})."


def _of_rust(error: BaseException) -> str:
    if _says(error, *(f"os error {number}" for number in _FULL)):
        return (
            f"The disk is full or a limit is reached ({_cause(error)}); free some space, or name "
            f"a folder elsewhere (--output_dir)."
        )
    return (
        f"A file of weights or of a tokenizer is damaged or cannot be written ({_cause(error)}); "
        f"fetch it again, or check its folder ({_DEBUG})."
    )


def _is_meant(error: BaseException) -> bool:
    """Whether an exception was written for the caller to read.

    So it is where a library raised it, or a `raise` in this package; an error of Python that comes
    up in this package's code, such as int("x"), is not.
    """
    frame = _innermost(error)
    if frame is None or (not isinstance(error, _CAN_BE_MEANT) and type(error) is not Exception):
        return False
    owner = str(frame.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
    raised = dis.opname[frame.tb_frame.f_code.co_code[frame.tb_lasti]] == "RAISE_VARARGS"
    if owner == "nlp_adv":
        return raised and isinstance(error, ValueError | RuntimeError)
    return raised or isinstance(error, ValueError) or type(error) is Exception


def _of_users_model(error: BaseException) -> bool:
    """Whether torch refused something inside a model: the input does not suit it."""
    modules = (str(one.tb_frame.f_globals.get("__name__", "")) for one in _frames(error))
    return isinstance(error, RuntimeError) and any(
        name.startswith("transformers.models.") for name in modules
    )


def _innermost(error: BaseException) -> TracebackType | None:
    return next(reversed(list(_frames(error))), None)


def _frames(error: BaseException) -> Iterator[TracebackType]:
    at = error.__traceback__
    while at is not None:
        yield at
        at = at.tb_next


def _module(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _says(error: BaseException, *texts: str) -> bool:
    said = str(error)
    return any(text in said for text in texts)


def _cause(error: BaseException) -> str:
    """What the exception says, as one line without a full stop; its type where it says nothing."""
    return _one_line(error).rstrip(". ") or type(error).__name__


def _one_line(error: BaseException) -> str:
    text = str(error)
    if "Original Traceback (most recent call last)" in text:  # of a worker of a DataLoader
        text = re.sub(r"^[\w.]+: ", "", text.strip().splitlines()[-1])
    return " ".join(text.split())


def readers_are_gone() -> bool:
    """Whether nobody reads what is printed any more, as after `| head`; no more is printed then."""
    gone = [stream for stream in (sys.stdout, sys.stderr) if _is_broken(stream)]
    for stream in gone:  # or Python would flush it at its end, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(gone)


def _is_broken(stream: TextIO) -> bool:
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no file, or a system without poll
        return False
