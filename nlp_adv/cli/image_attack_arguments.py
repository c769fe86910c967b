"""The flags of attacks on images, and the attacks by the names that they have there."""

from __future__ import annotations

from dataclasses import dataclass, field

from nlp_adv.attacks import Attack
from nlp_adv.attacks.losses import check_loss
from nlp_adv.attacks.region import check_pixel_ball
from nlp_adv.attacks.registry import Settings, build_attack
from nlp_adv.cli.arguments import check_counts, check_radii, flag
from nlp_adv.cli.attack_arguments import AttackArguments, AttackFlags, VictimArguments
from nlp_adv.errors import UserError
from nlp_adv.perturbation import BALLS, Ball

STEP_RATIO = 2.5  # step size = 2.5·ε/steps: long enough to cross the ball, short enough to settle


@dataclass
class ImageVictimArguments(VictimArguments):
    """The attacked model and the images."""

    model_name_or_path: str = flag(
        "Attack this classifier: a folder with its image processor, or a name on the Hub.", ""
    )
    dataset_name: str | None = flag(
        "Attack these images: a folder of IDX files, a folder with one sub-folder of pictures a "
        "class, a saved data set, or a name on the Hub."
    )
    split: str | None = flag(
        "Attack train, validation or test; without the flag test, where there is one."
    )


@dataclass
class ImageAttackArguments(AttackArguments):
    """What is tried on it."""

    attacks: list[str] = field(
        default_factory=lambda: ["fgsm", "pgd"],
        metadata={
            "help": "Try any of fgsm, fgm (the same in other norms), bim, pgd, mi-fgsm, apgd, "
            "apgd-t, fab-t, square, auto (the last four in turn) and noise in a ball; deepfool, cw "
            "and smallest-pgd, which look for the smallest δ."
        },
    )
    epsilon: float | None = flag(
        "Bound δ by this radius, in pixels of [0, 1]; without the flag 8/255 for L∞."
    )
    norm: str = flag("Measure δ in this norm: linf, l2 or l1.", "linf")
    step_size: float | None = flag(
        "Let bim, pgd and mi-fgsm take steps of this α, in pixels; without the flag 2.5·ε/steps."
    )
    steps: int = flag(
        "Take so many steps in all but fgsm, fgm, square and cw; 100 are usual in auto.", 20
    )
    loss: str = flag(
        "Let attacks in a ball climb this loss: margin, cross_entropy or dlr.", "margin"
    )
    restarts: int = flag("Start pgd and apgd so many times, with seeds from --seed on.", 1)
    queries: int = flag("Give square, alone and in auto, so many forward passes.", 5000)
    cw_steps: int = flag("Let cw take so many steps of Adam for each constant.", 200)
    cw_step_size: float = flag("The steps of cw have this size.", 0.05)
    cw_search_steps: int = flag("Let cw try so many constants.", 9)
    epsilons: list[float] = field(
        default_factory=list,
        metadata={"help": "Draw a curve of accuracy over these radii, for each attack in a ball."},
    )
    max_examples: int | None = flag("Attack a random draw of so many images.", 1000)
    batch_size: int = flag("Attack so many images at once.", 64)
    checks: bool = flag("Run the checks for gradient masking.", True)
    check_examples: int = flag("Run them on the first so many of the drawn images.", 100)

    @property
    def radius(self) -> float:
        """ε."""
        return 8 / 255 if self.epsilon is None else self.epsilon

    def ball(self, epsilon: float) -> Ball:
        """The ball of a radius."""
        return BALLS[self.norm](epsilon, "example")

    def settings(self) -> Settings:
        """What the attacks are built of."""
        step = STEP_RATIO * self.radius / self.steps if self.step_size is None else self.step_size
        return Settings(
            self.ball(self.radius),
            step,
            steps=self.steps,
            loss=self.loss,  # type: ignore[arg-type]
            restarts=self.restarts,
            queries=self.queries,
            seed=self.seed,
            targeted=self.target is not None,
            cw_steps=self.cw_steps,
            cw_step_size=self.cw_step_size,
            cw_search_steps=self.cw_search_steps,
        )


def check_numbers(attack: ImageAttackArguments) -> None:
    """Refuse what no attack can have.

    Raises:
        UserError: a number or a name that is out of range.
    """
    check_counts(
        attack, "steps", "restarts", "queries", "max_examples", "batch_size", "check_examples"
    )
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


def built_attacks(arguments: ImageAttackArguments) -> dict[str, Attack]:
    """The attacks by the names that were typed.

    Raises:
        UserError: an unknown name, or a number that is out of range.
    """
    settings = arguments.settings()
    return {name: build_attack(name, settings) for name in dict.fromkeys(arguments.attacks)}


def in_ball(attack: Attack) -> bool:
    """It climbs a loss in a ball, and does not look for the smallest δ."""
    return getattr(attack, "ball", None) is not None


class ImageFlags(AttackFlags):
    """Of attacks on images."""

    modality, other = "image", "text"
    data_usage = "--dataset_name FOLDER"

    @classmethod
    def kinds(cls, command: str) -> tuple[type, ...]:
        """The same for both commands."""
        return ImageVictimArguments, ImageAttackArguments
