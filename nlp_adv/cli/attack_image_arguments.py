"""The flags of `nlp-adv attack --modality image`, and the attacks that they name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import HfArgumentParser

from nlp_adv.cli.arguments import flag_names, flags_of_file, unknown_flag
from nlp_adv.cli.modality import with_numbers
from nlp_adv.errors import UserError
from nlp_adv.images import APGD, FGM, FGSM, PGD, Attack, CarliniWagner, DeepFool
from nlp_adv.images.losses import check_loss
from nlp_adv.perturbation import BALLS, Ball
from nlp_adv.robustness.images.noise import PixelNoise

STEP_RATIO = 2.5  # step size = 2.5·ε/steps: long enough to cross the ball, short enough to settle


def _flag(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class ImageVictimArguments:
    """The attacked model and the images."""

    modality: str = _flag("image.", "image")
    model_name_or_path: str = _flag(
        "A folder with a saved classifier and its image processor, or a name on the Hub.", ""
    )
    model_revision: str = _flag("Branch, tag or commit on the Hub.", "main")
    cache_dir: str | None = _flag("Where downloads from the Hub are kept.")
    dataset_name: str = _flag(
        "A folder of IDX files, a folder with one sub-folder of pictures a class, a saved data "
        "set, or a name on the Hub.",
        "",
    )
    split: str | None = _flag("train, validation or test; test where there is one, by default.")
    device: str | None = _flag(
        "Where the model runs: cuda, cpu, …; an accelerator if there is one."
    )


@dataclass
class ImageAttackArguments:
    """What is tried on it."""

    attacks: list[str] = field(
        default_factory=lambda: ["fgsm", "pgd"],
        metadata={
            "help": "Any of fgsm, fgm (the same in other norms), bim, pgd, mi-fgsm, apgd, and "
            "noise in a ball; deepfool and cw, which look for the smallest δ."
        },
    )
    epsilon: float | None = _flag("Radius in pixels of [0, 1]; for L∞ 8/255 without.")
    norm: str = _flag("Of the ball: linf, l2 or l1.", "linf")
    step_size: float | None = _flag("α of bim, pgd and mi-fgsm, in pixels; 2.5·ε/steps without.")
    steps: int = _flag("Steps of bim, pgd, mi-fgsm and apgd.", 20)
    loss: str = _flag("What attacks in a ball climb: margin, cross_entropy or dlr.", "margin")
    restarts: int = _flag("Starts of pgd and apgd, with seeds from --seed on.", 1)
    cw_steps: int = _flag("Adam's steps of cw for each constant.", 200)
    cw_step_size: float = _flag("Their size.", 0.05)
    cw_search_steps: int = _flag("Constants that cw tries.", 9)
    epsilons: list[float] = field(
        default_factory=list,
        metadata={"help": "Radii of a curve of accuracy over ε, for each attack in a ball."},
    )
    target: str | None = _flag("Attack towards this class, a name or a number; any without.")
    max_examples: int = _flag("Attack a random draw of so many images.", 1000)
    batch_size: int = _flag("Images attacked at once.", 64)
    seed: int = _flag("Of the draw, of random starts and of noise.", 0)
    checks: bool = _flag("Run the masking checks.", True)
    check_examples: int = _flag("With the first so many of the drawn images.", 100)
    output_dir: str = _flag("Where records.jsonl and the report go.", "")

    @property
    def radius(self) -> float:
        """ε."""
        return 8 / 255 if self.epsilon is None else self.epsilon

    def ball(self, epsilon: float) -> Ball:
        """The ball of a radius."""
        return BALLS[self.norm](epsilon, "example")

    def pgd(self, epsilon: float, **changes: Any) -> PGD:
        """PGD in the ball of a radius, until it fools."""
        scale = 1.0 if self.radius == 0 else epsilon / self.radius
        step = STEP_RATIO * self.radius / self.steps if self.step_size is None else self.step_size
        settings = {"loss": self.loss, "until_fooled": True, "seed": self.seed} | changes
        return PGD(self.ball(epsilon), step_size=step * scale, steps=self.steps, **settings)

    def built(self) -> dict[str, Attack]:
        """The attacks by the names that were typed.

        Raises:
            UserError: an unknown name, or a number that is out of range.
        """
        named = {}
        for name in dict.fromkeys(self.attacks):
            if name not in _BUILD:
                raise UserError(f"There is no attack {name!r}; choose from {', '.join(_BUILD)}.")
            try:
                named[name] = _BUILD[name](self)
            except ValueError as error:
                raise UserError(f"{name}: {error}") from error
        return named


_BUILD: dict[str, Callable[[ImageAttackArguments], Attack]] = {
    "fgsm": lambda a: _fgsm(a),
    "fgm": lambda a: FGM(a.ball(a.radius), _loss(a)),
    "bim": lambda a: a.pgd(a.radius, random_start=False),
    "pgd": lambda a: a.pgd(a.radius),
    "mi-fgsm": lambda a: a.pgd(a.radius, random_start=False, momentum=1.0),
    "apgd": lambda a: APGD(
        a.ball(a.radius), a.steps, _loss(a), random_start=a.restarts > 1, seed=a.seed
    ),
    "noise": lambda a: PixelNoise(a.ball(a.radius), seed=a.seed),
    "deepfool": lambda a: _deepfool(a),
    "cw": lambda a: CarliniWagner(a.cw_steps, a.cw_step_size, a.cw_search_steps),
}


def _fgsm(arguments: ImageAttackArguments) -> Attack:
    if arguments.norm != "linf":
        raise UserError("fgsm is a step in L∞; with --norm l2 or l1 name fgm.")
    return FGSM(arguments.radius, _loss(arguments))


def _deepfool(arguments: ImageAttackArguments) -> Attack:
    if arguments.norm == "l1":
        raise UserError("deepfool measures in L2 or L∞; leave it out with --norm l1.")
    return DeepFool("linf" if arguments.norm == "linf" else "l2")


def _loss(arguments: ImageAttackArguments) -> Any:
    return arguments.loss


def parse(argv: list[str]) -> tuple[ImageVictimArguments, ImageAttackArguments]:
    """Flags, or one .json file of them, as dataclasses.

    Raises:
        UserError: an unknown flag, one of text attacks, a value that is refused, or a required
            flag that is missing.
    """
    parser = HfArgumentParser(
        (ImageVictimArguments, ImageAttackArguments),  # type: ignore[arg-type]
        prog="nlp-adv attack --modality image",
        usage="nlp-adv attack --modality image --model_name_or_path DIR --dataset_name FOLDER "
        "[flags]",
        allow_abbrev=False,
    )
    argv = with_numbers(flags_of_file(argv))
    try:
        victim, attack, unknown = parser.parse_args_into_dataclasses(
            argv, look_for_args_file=False, return_remaining_strings=True
        )
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error
    if unknown:
        raise UserError(_unknown(unknown[0], parser))
    for name, value in (("model_name_or_path", "FOLDER_OR_NAME"), ("dataset_name", "FOLDER")):
        if not getattr(victim, name):
            raise UserError(f"Name what is attacked: --{name} {value}.")
    if not attack.output_dir:
        raise UserError("Name a folder for the results: --output_dir FOLDER.")
    for name in ("steps", "restarts", "max_examples", "batch_size", "check_examples"):
        if getattr(attack, name) < 1:
            raise UserError(f"--{name} is {getattr(attack, name)}; give at least 1.")
    _check_numbers(attack)
    return victim, attack


def _check_numbers(attack: ImageAttackArguments) -> None:
    if attack.norm not in BALLS:
        raise UserError(f"--norm can be {', '.join(BALLS)}, not {attack.norm!r}.")
    if attack.norm != "linf" and attack.epsilon is None:
        raise UserError(
            f"--norm {attack.norm} needs --epsilon: how long a δ is depends on the number of "
            f"pixels."
        )
    try:
        check_loss(attack.loss)
        for epsilon in (attack.radius, *attack.epsilons):
            attack.pgd(epsilon)
    except ValueError as error:
        raise UserError(str(error)) from error
    if attack.target is not None and "deepfool" in attack.attacks:
        raise UserError("deepfool goes to the nearest class and has no target; leave it out.")


def _unknown(flag: str, parser: HfArgumentParser) -> str:
    from nlp_adv.cli.attack_arguments import AttackArguments, VictimArguments

    texts = {*vars(VictimArguments()), *vars(AttackArguments())}
    if flag_names([flag]) & texts:
        return f"{flag} belongs to attacks on texts; leave it out, or leave out --modality image."
    return unknown_flag(flag, parser)
