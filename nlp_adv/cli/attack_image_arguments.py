"""The flags of `nlp-adv attack --modality image`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nlp_adv.attacks import PGD
from nlp_adv.attacks.losses import check_loss
from nlp_adv.attacks.region import check_pixel_ball
from nlp_adv.cli.arguments import check_radii
from nlp_adv.cli.attack_arguments import AttackArguments, VictimArguments
from nlp_adv.cli.flags import PlainParser, flag_names
from nlp_adv.cli.parser import FlagParser
from nlp_adv.cli.settings import flags_of
from nlp_adv.errors import UserError
from nlp_adv.perturbation import BALLS, Ball

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

    def pgd(self, **changes: Any) -> PGD:
        """PGD in the ball, until it fools."""
        step = STEP_RATIO * self.radius / self.steps if self.step_size is None else self.step_size
        settings: dict[str, Any] = {
            "loss": self.loss,
            "until_fooled": True,
            "seed": self.seed,
        } | changes
        return PGD(self.ball(self.radius), step_size=step, steps=self.steps, **settings)


def parse(argv: list[str]) -> tuple[ImageVictimArguments, ImageAttackArguments]:
    """Flags, or a file of them, as dataclasses.

    Raises:
        UserError: an unknown flag, one of text attacks, a value that is refused, or a required
            flag that is missing.
    """
    parser = FlagParser(
        (ImageVictimArguments, ImageAttackArguments),
        prog="nlp-adv attack --modality image",
        usage="nlp-adv attack --modality image --model_name_or_path DIR --dataset_name FOLDER "
        "[flags]",
    )
    (victim, attack), unknown = parser.read(flags_of(argv))
    if unknown:
        raise _unknown(unknown[0], parser)
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
    check_radii("epsilon", [attack.radius])
    check_radii("epsilons", attack.epsilons)
    try:
        check_loss(attack.loss)
        for epsilon in (attack.radius, *attack.epsilons):
            check_pixel_ball(attack.ball(epsilon))
    except ValueError as error:
        raise UserError(f"--epsilon, --epsilons, --loss: {error}") from error


def of_texts(argv: list[str]) -> list[str]:
    """A command line of attacks on texts, without `--modality text`, which they know nothing of.

    Raises:
        UserError: a flag of attacks on images is among the others.
    """
    argv = flags_of(argv)
    of_images = {*vars(ImageVictimArguments()), *vars(ImageAttackArguments())} - _text_flags()
    strange = sorted(flag_names(argv) & of_images - {"modality"})
    if strange:
        raise UserError(f"--{strange[0]} belongs to attacks on images: add --modality image.")
    given = PlainParser(add_help=False)
    given.add_argument("--modality")
    return given.parse_known_args(argv)[1]


def _unknown(word: str, parser: FlagParser) -> UserError:
    if flag_names([word]) & _text_flags():
        flag = word.split("=")[0]
        return UserError(
            f"{flag} belongs to attacks on texts; leave it out, or leave out --modality image."
        )
    return parser.unknown(word)


def _text_flags() -> set[str]:
    return {*vars(VictimArguments()), *vars(AttackArguments())}
