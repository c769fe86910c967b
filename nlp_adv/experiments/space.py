"""What `nlp-adv sweep` varies: `--space adv_epsilon=0.01:0.1:log adv_steps=2,3`."""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import numpy as np

from nlp_adv.errors import UserError
from nlp_adv.methods import Modality
from nlp_adv.training.arguments import AdversarialTrainingArguments

# Lengths and rates matter by their ratio: their ranges are logarithmic unless told otherwise.
_LOGARITHMIC = (
    "learning_rate",
    "adam_epsilon",
    "adv_epsilon",
    "adv_step_size",
    "adv_init_magnitude",
    "adv_xi",
)
# Those of TrainingArguments that say how a model is trained, not where or what is written.
_OF_TRAINING = (
    "learning_rate",
    "weight_decay",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "lr_scheduler_type",
    "warmup_steps",
    "max_grad_norm",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "label_smoothing_factor",
    "neftune_noise_alpha",
)
_NOT_SEARCHED = (
    "adv_embedding",
    "adv_site",
    "adv_span",
    "adv_first_block",
    "adv_seed",
    "adv_mend_loss_scaling",
)


def hyperparameters() -> dict[str, type]:
    """The flags that can be searched, each with bool, int, float or str for its values."""
    hints = get_type_hints(AdversarialTrainingArguments)
    adversarial = [n for n in hints if n.startswith("adv") and n not in _NOT_SEARCHED]
    return {name: _kind(hints[name]) for name in (*adversarial, *_OF_TRAINING)}


def _kind(hint: Any) -> type:
    kinds = get_args(hint) or (hint,)
    return next((kind for kind in (bool, int, float) if kind in kinds), str)


@dataclass(frozen=True)
class Hyperparameter:
    """One flag and where its values are looked for.

    Args:
        name: of the flag, without dashes.
        values: to choose from; none for a range.
        low, high: ends of a range.
        log: whether the range, or the axis of a plot, is logarithmic.
        whole: whether it holds whole numbers only.
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    whole: bool = False

    def suggest(self, trial: Any) -> Any:
        """A value, asked of a trial as Optuna has them."""
        if self.values:
            return trial.suggest_categorical(self.name, self.values)
        ask = trial.suggest_int if self.whole else trial.suggest_float
        return ask(self.name, self.low, self.high, log=self.log)

    def points(self, count: int) -> list[Any]:
        """At most so many values of a range, its ends among them, evenly spaced on its scale.

        Of a list, all.
        """
        if self.values:
            return list(self.values)
        spaced = (np.geomspace if self.log else np.linspace)(self.low, self.high, count)
        between = [round(value) if self.whole else value for value in spaced[1:-1].tolist()]
        return list(dict.fromkeys([self.low, *between, self.high]))

    @property
    def ends(self) -> tuple[Any, ...]:
        """The ends of a range; all values of a list."""
        return self.values or (self.low, self.high)

    def __str__(self) -> str:
        if self.values:
            return f"{self.name}={','.join(map(str, self.values))}"
        return f"{self.name}={self.low}:{self.high}:{'log' if self.log else 'linear'}"


def parse_space(texts: Sequence[str]) -> list[Hyperparameter]:
    """The words after `--space`.

    Raises:
        UserError: a name that is none, a range or a list that does not fit it, a name twice.
    """
    space = [_parse(text) for text in texts]
    names = [one.name for one in space]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"--space names {twice[0]} twice.")
    return space


def _parse(text: str) -> Hyperparameter:
    name, equals, values = text.partition("=")
    name = name.removeprefix("--")
    if not equals or not values:
        raise UserError(
            f"--space {text}: write name=low:high, name=low:high:log or name=a,b,c, without blanks."
        )
    known = hyperparameters()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        way_out = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}."
        raise UserError(f"--space {text}: {name!r} is nothing that a sweep can vary; {way_out}")
    try:
        return (_range if ":" in values else _list)(name, values, known[name])
    except ValueError as error:
        raise UserError(f"--space {text}: {error}") from error


def _range(name: str, text: str, kind: type) -> Hyperparameter:
    low, high, scale = [*text.split(":"), ""][:3]
    if kind not in (int, float) or text.count(":") > 2 or scale not in ("", "log", "linear"):
        raise ValueError(
            "a range of numbers is low:high, low:high:log or low:high:linear, and words are a,b,c."
        )
    log = scale == "log" or (scale == "" and name in _LOGARITHMIC)
    ends = _value(low, kind), _value(high, kind)
    if not -math.inf < ends[0] < ends[1] < math.inf:
        raise ValueError("a range must begin below its end, and both must be finite.")
    if log and ends[0] <= 0:
        raise ValueError(
            "a logarithmic range must begin above 0; raise its beginning or write low:high:linear."
        )
    return Hyperparameter(name, low=ends[0], high=ends[1], log=log, whole=kind is int)


def _list(name: str, text: str, kind: type) -> Hyperparameter:
    values = tuple(dict.fromkeys(_value(one, kind) for one in text.split(",")))
    return Hyperparameter(name, values, log=name in _LOGARITHMIC and min(values) > 0)


def _value(text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false.")
        return text.lower() == "true"
    try:
        value = kind(text)
    except ValueError:
        what = "whole number" if kind is int else "number"
        raise ValueError(f"{text!r} is no {what}.") from None
    if value == "" or value != value:
        raise ValueError(f"{text!r} is no value.")
    return value


def hp_space(space: Sequence[Hyperparameter]) -> Callable[[Any], dict[str, Any]]:
    """What `hyperparameter_search` and the plan of a sweep take: asks a trial for its values.

    trainer.hyperparameter_search(hp_space(parse_space(["adv_epsilon=0.01:0.1"])), …)
    """
    return lambda trial: {one.name: one.suggest(trial) for one in space}


def default_space(
    training: AdversarialTrainingArguments,
    given: set[str],
    *,
    demo: bool,
    modality: Modality = "text",
) -> list[Hyperparameter]:
    """ε from a third to thrice its size, and the learning rate, but for what the flags fix.

    Args:
        training: the arguments, for ε as the flags or the preset have it.
        given: names of the flags that the user gave.
        demo: whether the demo is trained, whose random weights need a rate of their own.
        modality: of the data, on which a method's preset depends.

    Raises:
        UserError: nothing is left to vary.
    """
    space = []
    ball = getattr(training.adversarial_schedule(modality).method, "ball", None)
    if ball is not None and 0 < ball.epsilon < math.inf and "adv_epsilon" not in given:
        low, high = _rounded(ball.epsilon / 3), _rounded(3 * ball.epsilon)
        space.append(Hyperparameter("adv_epsilon", low=low, high=high, log=True))
    if "learning_rate" not in given:
        rate = training.learning_rate
        low, high = (_rounded(rate / 3), _rounded(3 * rate)) if demo else (1e-5, 1e-4)
        space.append(Hyperparameter("learning_rate", low=low, high=high, log=True))
    if not space:
        raise UserError("The flags fix all that is varied by default: say what with --space.")
    return space


def _rounded(number: float) -> float:
    return float(f"{number:.3g}")
