"""What `nlp-adv sweep` is asked for: its flags, the space, and the arguments of each trial."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nlp_adv.cli.arguments import TrainArguments, parse
from nlp_adv.cli.flags import by_name
from nlp_adv.cli.parser import FlagParser
from nlp_adv.errors import UserError
from nlp_adv.experiments.space import Hyperparameter, default_space, parse_space
from nlp_adv.experiments.sweep import Objective

# What the robust accuracy is measured on, and its radii.
_ATTACKED = {
    "text": ("word embeddings", "relative L2 radii"),
    "image": ("pixels", "L∞ radii"),
}
# A sweep keeps numbers, not models, and goes on by itself.
_REFUSED = ("resume_from_checkpoint", "load_best_model_at_end", "push_to_hub", "watch_epsilon")
# Flags that may change before a sweep goes on.
_NEUTRAL = ("output_dir", "overwrite_output_dir", "disable_tqdm", "report_to", "log_level")
_DEMO = ("--attack_examples", "200")  # fewer than in `nlp-adv train`
# Trials are scored once, at their end.
_OF_TRIALS = {"save_strategy": ["no"], "eval_strategy": ["no"]}


@dataclass
class SweepArguments:
    """How the search goes; all other flags are those of `nlp-adv train`.

    Raises:
        UserError: a value out of range.
    """

    space: list[str] = field(
        default_factory=list,
        metadata={
            "help": "What to vary: name=low:high, name=low:high:log (or :linear), name=a,b,c; "
            "lengths and learning rates are logarithmic by default. Unset: epsilon and the "
            "learning rate."
        },
    )
    search: Literal["random", "grid", "tpe", "optuna"] = field(
        default="random",
        metadata={
            "help": "random draws, the grid of all values, or TPE, which draws near the best "
            "trials so far; optuna is another name for tpe."
        },
    )
    trials: int | None = field(
        default=None,
        metadata={"help": "How many trials; 12, in the demo 6. A grid has as many as it has."},
    )
    grid_points: int = field(default=3, metadata={"help": "Values of a range in a grid."})
    clean_share: float = field(
        default=0.5,
        metadata={
            "help": "Share s of the objective s*clean + (1-s)*robust: accuracy on the validation "
            "split, and accuracy under attack on its first rows averaged over --attack_epsilons."
        },
    )

    def __post_init__(self) -> None:
        if self.trials is not None and self.trials < 1:
            raise UserError(f"--trials is {self.trials}; give at least 1.")
        if self.grid_points < 2:
            raise UserError(f"--grid_points is {self.grid_points}; give at least 2.")
        if not 0 <= self.clean_share <= 1:
            raise UserError(f"--clean_share is {self.clean_share}; it must be in [0, 1].")
        self.search = "tpe" if self.search == "optuna" else self.search


class SweepRequest:
    """What the command line asks for; every trial that is known beforehand is checked.

    Args:
        argv: the command line after `sweep`.

    Raises:
        UserError: flags, a space or a trial that cannot be run; or Optuna is not installed.
    """

    def __init__(self, argv: list[str]) -> None:
        if {"-h", "--help"} & set(argv):
            self._parsed({"help": []})  # prints all flags and exits
        self.arguments, self._flags = _split(argv)
        from nlp_adv.experiments.plan import planned, quiet_optuna  # Optuna is an extra

        quiet_optuna()
        refused = sorted(set(self._flags) & set(_REFUSED))
        if refused:
            raise UserError(
                f"--{refused[0]} is not for a sweep, which keeps no checkpoints and scores its "
                f"trials at their end."
            )
        adv = self._flags.get("adv", ["none"])
        self.output_dir = (self._flags.get("output_dir") or [f"runs/sweep-{'-'.join(adv)}"])[-1]
        self.space = self._space()
        first = {one.name: one.ends[0] for one in self.space}
        self.base = self._checked(first)
        # Radii may follow from a trial's ε; trials that are compared are attacked alike.
        others = {name: value for name, value in first.items() if name != "adv_epsilon"}
        self.report = self._checked(others).report
        self.objective = self._objective()
        search, points = self.arguments.search, self.arguments.grid_points
        trials = self.arguments.trials
        if trials is None and search != "grid":
            trials = 6 if self.base.demo else 12
        seed = self.base.training.seed
        self.plan = planned(search, self.space, n_trials=trials, seed=seed, points=points)
        known = self.plan
        if search == "tpe":  # the ends of each hyperparameter stand for what is chosen later
            known = [first | {one.name: end} for one in self.space for end in one.ends]
        self.checked = [self._checked(params) for params in known]

    def _objective(self) -> Objective:
        report, share = self.report, self.arguments.clean_share
        if share < 1 and not report.attack_epsilons:
            raise UserError(
                "The robust accuracy needs radii: name some with --attack_epsilons, or pass "
                "--clean_share 1 for the clean accuracy alone."
            )
        shown = ", ".join(f"{epsilon:g}" for epsilon in sorted(report.attack_epsilons))
        place, radii = _ATTACKED[self.base.kind.modality]
        attack = f"PGD-{report.attack_steps} on the {place}" if shown else ""
        return Objective(share, attack, f"{radii} {shown}", report.attack_examples)

    @property
    def total(self) -> int:
        """How many trials the sweep has."""
        return len(self.plan)

    @property
    def settings(self) -> dict[str, Any]:
        """What must stay the same for a sweep to be continued; JSON can hold it."""
        arguments, report = self.arguments, self.report
        return {
            "search": arguments.search,
            "space": [str(one) for one in self.space],
            "grid_points": arguments.grid_points,
            "seed": self.base.training.seed,
            "objective": str(self.objective),
            "attack_steps": report.attack_steps,
            "attack_examples": report.attack_examples,
            "flags": {k: v for k, v in self._flags.items() if k not in _NEUTRAL},
        }

    def of_trial(self, params: dict[str, Any], folder: Path | None = None) -> TrainArguments:
        """All arguments of a trial, as `nlp-adv train` would have them."""
        fixed = {**_OF_TRIALS, "output_dir": [str(folder or self.output_dir)]}
        words = {name: [str(value)] for name, value in params.items()}
        parsed = self._parsed(self._flags | words | fixed)
        if parsed.training.n_gpu > 1:  # one process on several would be nn.DataParallel
            parsed.training._n_gpu = 1
        return parsed

    def of_best(self, params: dict[str, Any]) -> dict[str, Any]:
        """Flags of `nlp-adv train` that repeat a trial, and keep its model."""
        given = {
            name: values[0] if len(values) == 1 else values or True
            for name, values in self._flags.items()
            if name != "overwrite_output_dir"
        }
        return {**given, **params, "output_dir": f"{self.output_dir}/best"}

    def _space(self) -> list[Hyperparameter]:
        space = parse_space(self.arguments.space)
        fixed = [one.name for one in space if one.name in self._flags]
        if fixed:
            raise UserError(f"--{fixed[0]} is fixed by its flag and varied by --space: drop one.")
        if space:
            return space
        base = self.of_trial({})
        return default_space(
            base.training, set(self._flags), demo=base.demo, modality=base.kind.modality
        )

    def _checked(self, params: dict[str, Any]) -> TrainArguments:
        try:
            return self.of_trial(params)
        except UserError as error:
            shown = ", ".join(f"{name} {value}" for name, value in params.items())
            raise UserError(f"The trial with {shown} cannot run: {error}") from error

    def _parsed(self, flags: dict[str, list[str]]) -> TrainArguments:
        argv = [word for name, values in flags.items() for word in (f"--{name}", *values)]
        return parse(argv, command="sweep", more=(SweepArguments,), demo=_DEMO)


def _split(argv: list[str]) -> tuple[SweepArguments, dict[str, list[str]]]:
    """The sweep's own flags, and the others by name."""
    parser = FlagParser(
        SweepArguments,
        prog="nlp-adv sweep",
        usage="nlp-adv sweep [flags]   (nlp-adv sweep --help lists them)",
        add_help=False,
    )
    (arguments,), rest = parser.read(argv)
    flags = by_name(rest)
    for word in flags.pop(""):
        raise parser.unknown(word)
    return arguments, flags
