"""Functions of one's own: found in a file, known by name and version, their failures named.

A number belongs to the functions that it was measured with, so each enters the protocol's hash by a
name and a version. What goes wrong inside one is said with its name and the text it was given,
since nobody else can mend it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, is_dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from nlp_adv.errors import UserError

T = TypeVar("T")

_PLACE = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")
TWICE = 16  # first calls of a function that are made twice, to see whether it answers alike


class Found(NamedTuple):
    """What FILE.py:NAME holds.

    Args:
        value: of that name.
        name: as in the file.
        version: 12 hexadecimal digits of the file's text.
        module: the whole file.
    """

    value: Any
    name: str
    version: str
    module: Any


def found_at(place: str) -> Found | None:
    """The function that FILE.py:NAME says; None where that is no such place.

    Raises:
        UserError: no such file or function, or the file cannot be run.
    """
    match = _PLACE.fullmatch(place)
    if match is None:
        return None
    path, name = Path(match["file"]), match["name"]
    if not path.is_file():
        raise UserError(f"There is no file {path} to take a function from; check the path.")
    loader = _LeavingNothing(path.stem, str(path))
    spec = importlib.util.spec_from_file_location(path.stem, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        loader.exec_module(module)
    except Exception as error:  # it is the user's
        raise UserError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    value = getattr(module, name, None)
    if not callable(value):
        raise UserError(f"{path} has no function {name!r}.")
    return Found(value, name, hashlib.sha256(path.read_bytes()).hexdigest()[:12], module)


class _LeavingNothing(SourceFileLoader):
    """Runs a file without a compiled one beside it: the folder is the user's."""

    def set_data(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing."""


def name_of(function: Any) -> str:
    """What to call a function: the name that it gives itself, or that of its definition."""
    own = getattr(function, "name", None) or getattr(function, "__qualname__", None)
    return str(own or type(function).__qualname__)


def called(who: str, function: Callable[[Any], T], texts: Sequence[Any]) -> T:
    """`function(texts)`; where that fails, which function failed, and on which text.

    Raises:
        UserError: it did.
    """
    try:
        return function(texts)
    except (UserError, torch.OutOfMemoryError):  # memory that ends is met with smaller batches
        raise
    except Exception as error:
        text = next((one for one in texts if _fails(function, one)), next(iter(texts), ""))
        said = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".:")
        raise UserError(f"{who} failed on the text {text!r:.80} ({said}); mend it.") from error


def _fails(function: Callable[[Any], Any], text: Any) -> bool:
    try:
        function([text])
    except Exception:
        return True
    return False


@dataclass(frozen=True)
class OwnFunction:
    """A function with what it is known by.

    Args:
        kind: what it is for, as messages call it.
        function: it.
        name, version: of it.
        unversioned: whether the version is a hash of its source, for want of one of its own.
    """

    kind: str
    function: Callable[..., Any] = field(repr=False)
    name: str
    version: str
    unversioned: bool = False
    _calls: list[int] = field(default_factory=lambda: [0], compare=False, repr=False)

    @classmethod
    def of(cls, kind: str, function: Any, found: Found | None = None) -> OwnFunction:
        """Name and version are the function's own, or else its name and a hash of its source.

        Args:
            kind: what it is for.
            function: any callable; a dataclass with `name`, `version` and `__call__` says both.
            found: where it is of a file, whose text is its source.

        Raises:
            UserError: it cannot be called, or has neither a version nor a source.
        """
        if isinstance(function, OwnFunction):
            return function
        if not callable(function):
            raise UserError(f"The {kind} {function!r:.60} is nothing that can be called.")
        name = found.name if found else name_of(function)
        version = getattr(function, "version", None)
        if version is not None:
            return cls(kind, function, name, str(version))
        digits = found.version if found else _digits(kind, name, function)
        return cls(kind, function, name, digits, unversioned=True)

    @property
    def fingerprint(self) -> str:
        """For the protocol's hash."""
        return f"{self.name} {self.version}"

    def __call__(self, text: Any) -> Any:
        """The function, of one text: a segmenter's or a tagger's."""
        return self.function(text)

    def __str__(self) -> str:
        return f"The {self.kind} {self.name}"

    def note(self) -> str:
        """What a reader must know of its version."""
        if not self.unversioned:
            return f"{self} is of version {self.version}."
        return (
            f"{self} has no version, and a hash of its source, {self.version}, stands for one: "
            f"what it reads from elsewhere is not in it."
        )

    def allows(self, original: str, texts: Sequence[str]) -> list[bool]:
        """Which texts the constraint that this is lets an attack try.

        Raises:
            UserError: it failed, answered with something else, or answered the same in two ways.
        """

        def asked() -> list[bool]:
            answer = called(str(self), lambda some: list(self.function(original, some)), texts)
            if len(answer) != len(texts) or not all(map(_is_truth, answer)):
                raise UserError(
                    f"{self} returned {answer!r:.60} for {len(texts)} texts, the first of them "
                    f"{texts[0]!r:.60}; it must return a list with True or False for each."
                )
            return list(map(bool, answer))

        return self._alike(asked, texts[0]) if texts else []

    def scores(self, logits: Tensor, label: int, text: str) -> Tensor:
        """The score of each row of logits, above 0 where the goal that this is is reached, (N,).

        Raises:
            UserError: it failed, answered with something else, or answered the same in two ways.
        """

        def asked() -> list[float]:
            # Its own copy: what it changes in place is not the model's answer.
            answer = called(str(self), lambda _: self.function(logits.clone(), label), [text])
            try:
                found = torch.as_tensor(answer).double()
            except (TypeError, ValueError, RuntimeError):
                found = torch.full((len(logits),), torch.nan)
            if found.shape != (len(logits),) or not torch.isfinite(found).all():
                raise UserError(
                    f"{self} returned {answer!r:.80} for the logits of {len(logits)} variants of "
                    f"the text {text!r:.60}; it must return a finite number for each row, above 0 "
                    f"where the goal is reached."
                )
            return found.tolist()

        return torch.tensor(self._alike(asked, text), dtype=torch.float64)

    def verdicts(self, requests: Sequence[str], answers: Sequence[str]) -> list[float]:
        """What the judge that this is says of answers: 1 answered, 0 not, or a score between.

        Raises:
            UserError: it failed, answered with something else, or answered the same in two ways.
        """
        pairs = list(zip(requests, answers, strict=True))

        def asked() -> list[float]:
            answer = called(str(self), lambda some: self.function(*_columns(some)), pairs)
            listed = answer.tolist() if hasattr(answer, "tolist") else answer
            values = listed if isinstance(listed, list | tuple) else []
            if len(values) != len(pairs) or not all(map(_is_score, values)):
                raise UserError(
                    f"{self} returned {answer!r:.60} for {len(pairs)} answers, the first of them "
                    f"{answers[0]!r:.60}; it must return a list with True, False or a score from 0 "
                    f"to 1 for each."
                )
            return list(map(float, values))

        return self._alike(asked, answers[0]) if pairs else []

    def _alike(self, asked: Callable[[], T], text: str) -> T:
        """Its answer; the first `TWICE` times it is asked again, whether it answers alike.

        Raises:
            UserError: it did not.
        """
        answer = asked()
        if self._calls[0] < TWICE:
            self._calls[0] += 1
            again = asked()
            if again != answer:
                raise UserError(
                    f"{self} gave two answers to the same text {text!r:.60}, {answer!r:.40} and "
                    f"{again!r:.40}, so that its numbers could not be had again: take the "
                    f"randomness out of it."
                )
        return answer


def _columns(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [one for one, _ in pairs], [other for _, other in pairs]


def _is_score(value: Any) -> bool:
    """True and False, and numbers from 0 to 1; of numpy and torch as well."""
    if _is_truth(value):
        return True
    try:
        return not isinstance(value, str) and 0 <= float(value) <= 1
    except (TypeError, ValueError):
        return False


def _is_truth(value: Any) -> bool:
    """True and False, of numpy and torch as well."""
    dtype = getattr(value, "dtype", None)
    return isinstance(value, bool) or (str(dtype) in ("bool", "torch.bool") and value.ndim == 0)


def _digits(kind: str, name: str, function: Any) -> str:
    """12 hexadecimal digits of the source; of an object, of its class and its fields."""
    code, values = function, ""
    if isinstance(function, functools.partial):
        code, values = function.func, repr((function.args, sorted(function.keywords.items())))
    elif is_dataclass(function):
        code, values = type(function), repr(function)
    elif not (inspect.isroutine(function) or inspect.isclass(function)):
        code = None  # what is in an object is seen by nobody
    try:
        source = inspect.getsource(code)
    except (TypeError, OSError):
        raise UserError(
            f"The {kind} {name} has neither a version nor a source to be known by: give it a name "
            f"and a version (a dataclass with both, or {name}.version = '1')."
        ) from None
    return hashlib.sha256(f"{source}{values}".encode()).hexdigest()[:12]
