"""The classic experiments on adversarial images: FGSM over ε, optimizers on pixels, all attacks.

    python recipes/image_attacks.py --data_dir FASHION_MNIST_FOLDER
    python recipes/image_attacks.py --model_name_or_path microsoft/resnet-50 --images PICTURES

fgsm: one step of ε (Goodfellow et al., ICLR 2015) and its inverse, which goes down the loss of the
right class. optimizers: the pixels of an image as the parameter of SGD, RMSprop, Adagrad and Adam,
towards another class, at one learning rate and then each at its best. table: what each attack
fools, how far it goes and what it takes, and checks against masking.

Without a model a small ResNet is trained on the data first. What is finished is kept in the output
folder and not made again, unless the model, the images or a setting changed. PICTURES is a folder
with one sub-folder a class, or picture files, whose right class then is what the model answers.
The figures need `nlp_adv[plots]`.
"""

import argparse
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from image_attacks_report import Subject, write_results
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import nlp_adv
from nlp_adv.cli.main import main as nlp_adv_command
from nlp_adv.errors import UserError
from nlp_adv.images import (
    APGD,
    FGM,
    FGSM,
    PGD,
    Attack,
    AttackResult,
    CarliniWagner,
    DeepFool,
    OptimizerAttack,
    compare,
    parse_epsilon,
)
from nlp_adv.images.batch import image_batch
from nlp_adv.images.data import Images, load_images
from nlp_adv.images.loading import LoadedClassifier, load_classifier
from nlp_adv.images.pixels import logits_of
from nlp_adv.images.quiet import quiet
from nlp_adv.perturbation import Ball, L1Ball, L2Ball, LInfBall
from nlp_adv.robustness.images import PixelNoise, image_checks

CLASSES = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle_boot"
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
EPSILONS = (0.0, 2 / 255, 4 / 255, 8 / 255, 16 / 255, 0.1, 32 / 255, 0.2)
STEPS = 100  # of the optimizers
RATES = tuple(10 ** (k / 2) for k in range(-8, 5))  # 0.0001 to 100
OPTIMIZERS: dict[str, tuple[Any, dict[str, float]]] = {
    "sgd": (torch.optim.SGD, {}),
    "sgd_momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adam": (torch.optim.Adam, {}),
}
Made = dict[str, Any]  # tensors and plain values


def load(args: argparse.Namespace) -> Subject:
    """Model and images; the training is done here where there is no model."""
    name = args.model_name_or_path or trained(args)
    classifier = load_classifier(name)
    names, model = classifier.label_names, classifier.model
    if args.images:
        images = pictures(args.images, classifier)
    else:
        there = load_images(args.data_dir, processor=classifier.processor)
        images = there.get("test", next(iter(there.values()))).named_as(names)
    if args.model_name_or_path is None and names == tuple(map(str, range(10))):
        names = tuple(CLASSES.replace("_", " ").split(maxsplit=9)[:9]) + ("Ankle boot",)
    images = images.head(args.examples)
    x, y = next(images.batches(len(images)))
    with torch.no_grad():
        answers = torch.cat([logits_of(model(part)).argmax(1) for part in x.split(args.batch_size)])
    y = torch.where(y < 0, answers, y)
    right = (answers == y).nonzero().flatten()
    if len(right) < 2:
        raise UserError(f"The model is right on {len(right)} of {len(x)} images; give others.")
    title = Path(name).resolve().name if Path(name).is_dir() else name
    if args.model_name_or_path is None:
        title = f"a small ResNet, trained here without attack for {args.epochs} epochs"
    return Subject(model, x, y, right, names, title)


def trained(args: argparse.Namespace) -> str:
    """The folder of the model; it is trained if it is not there."""
    folder = args.output_dir / f"model-{args.epochs}-epochs-seed-{args.seed}"
    if not (folder / "nlp_adv_report.json").exists():  # written last
        command = ["train", "--modality", "image", "--dataset_name", args.data_dir]
        command += ["--num_train_epochs", str(args.epochs), "--seed", str(args.seed)]
        command += ["--adv", "none", "--watch_epsilon", "0", "--attack_examples", "200"]
        command += ["--output_dir", str(folder), "--overwrite_output_dir", "true"]
        if nlp_adv_command(command) != 0:
            raise SystemExit(2)
    return str(folder)


def pictures(given: list[str], classifier: LoadedClassifier) -> Images:
    """Images of labelled folders; or of single files, with −1 for the class."""
    first, processor = Path(given[0]), classifier.processor
    if not first.exists() or (first.is_dir() and any(part.is_dir() for part in first.iterdir())):
        there = load_images(given[0], processor=processor, channels=classifier.channels)
        images = there.get("test", there.get("validation", next(iter(there.values()))))
        return images.named_as(classifier.label_names)
    paths = [Path(one) for one in given]
    inside = [sorted(path.iterdir()) if path.is_dir() else [path] for path in paths]
    files = [file for part in inside for file in part if file.suffix.lower() in PICTURES]
    if not files:
        raise UserError(f"{first} holds no pictures.")

    def read(index: int) -> Tensor:
        with Image.open(files[index]) as picture:
            levels = picture.convert("L" if classifier.channels == 1 else "RGB")
        made = processor([levels], return_tensors="pt", do_normalize=False, do_rescale=False)
        pixels: Tensor = made["pixel_values"][0].float() / 255
        return pixels.clamp(0, 1)

    return Images(read, [-1] * len(files), classifier.label_names)


def digest(subject: Subject) -> str:
    """Of weights and images."""
    found = hashlib.sha256()
    for tensor in (*subject.model.state_dict().values(), subject.x, subject.y):
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:12]


def kept(path: Path, settings: dict[str, Any], make: Callable[[], Made]) -> Made:
    """What was made with these settings, or is made now; all of it is written, or nothing."""
    settings = {"nlp_adv": nlp_adv.__version__, **settings}
    if path.exists():
        made: Made = torch.load(path, weights_only=True)
        if made["settings"] == settings:
            return made
    made = make() | {"settings": settings}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(made, path.with_suffix(".partial"))
    path.with_suffix(".partial").replace(path)
    return made


def signed_steps(subject: Subject, rows: Tensor, *, inverse: bool) -> list[AttackResult]:
    """FGSM at every ε from one gradient; inverse: towards the right class."""
    x, y = subject.x[rows], subject.y[rows]
    with quiet(subject.model):
        batch = image_batch(subject.model, x, y, y if inverse else None, None)
        return FGSM(0.0).sweep(batch, EPSILONS)


def over_epsilon(subject: Subject, args: argparse.Namespace) -> Made:
    """Answers and probabilities of the right class, (N, R) each, both ways."""
    made: Made = {}
    for name in ("fgsm", "inverse"):
        parts = torch.arange(len(subject.x)).split(args.batch_size)
        found = [signed_steps(subject, part, inverse=name == "inverse") for part in tqdm(parts)]
        for key, attribute in (("probability", "label_confidences"), ("answers", "answers")):
            lines = [torch.stack([getattr(one, attribute) for one in part], 1) for part in found]
            made[f"{name} {key}"] = torch.cat(lines)
    return made


class Watched(nn.Module):
    """A model that writes down its answer at every image that it is asked a gradient for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.answers = model, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        logits = logits_of(self.model(x))
        if x.requires_grad:
            self.answers.append(logits.detach().argmax(1))
        return logits


def first_steps(name: str, model: nn.Module, x: Tensor, target: Tensor, lr: float) -> Tensor:
    """‖Δx‖∞ of an optimizer's first step as its formula gives it, clamped to the box; (B,)."""
    leaf = x.clone().requires_grad_()
    loss = cross_entropy(logits_of(model(leaf)), target, reduction="sum")
    (g,) = torch.autograd.grad(loss, leaf)
    step = {
        "sgd": lr * g,
        "sgd_momentum": lr * g,
        "rmsprop": lr * g / ((0.01 * g.square()).sqrt() + 1e-8),  # 1 − ρ = 0.01
        "adagrad": lr * g / (g.abs() + 1e-10),
        "adam": lr * g / (g.abs() + 1e-8),
    }[name]
    return ((x - step).clamp(0, 1) - x).flatten(1).abs().amax(1)


def targets(subject: Subject, rows: Tensor, args: argparse.Namespace) -> Tensor:
    """--target, or of each image the class after its own."""
    classes = len(subject.names)
    following = (subject.y[rows] + 1) % classes
    return following if args.target is None else torch.full_like(following, args.target)


def descend(
    subject: Subject, rows: Tensor, attacks: dict[str, OptimizerAttack], target: Tensor
) -> dict[str, Made]:
    """By attack: losses, ‖δ‖₂ and "the target is reached", (S+1, B) each, and how it ended."""
    watched = Watched(subject.model)
    results = compare(attacks, watched, subject.x[rows], target=target).results
    made, seen = {}, iter(watched.answers)
    for name, result in results.items():
        answers = [next(seen) for _ in range(attacks[name].steps)]
        made[name] = {
            "losses": -result.losses,  # attacks climb: towards a target, −cross entropy
            "norms": result.norms_along,
            "reached": torch.stack([*answers, result.answers]) == target,
            "first": result.first_steps,
            "linf": result.norm(torch.inf),
        }
    return made


def optimizer_rows(subject: Subject, args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Right images to report on, and others to choose learning rates with."""
    right = subject.right
    if args.target is not None:
        right = right[subject.y[right] != args.target]
    count = min(args.optimizer_examples, len(right) // 2)
    if count < 1:
        raise UserError("There are fewer than two right images of other classes than --target.")
    return right[:count], right[count : 2 * count]


def at_one_rate(subject: Subject, rows: Tensor, args: argparse.Namespace) -> Made:
    """All optimizers, the same learning rate, no bound but the pixels' range."""
    lr, target = args.learning_rate, targets(subject, rows, args)
    attacks = {k: OptimizerAttack(o, lr, STEPS, options=v) for k, (o, v) in OPTIMIZERS.items()}
    made = descend(subject, rows, attacks, target)
    for name in OPTIMIZERS:
        formula = first_steps(name, subject.model, subject.x[rows], target, lr)
        made[name]["formula"] = formula
    return made


def at_best_rate(
    subject: Subject, attack: Callable[[float], OptimizerAttack], args: argparse.Namespace
) -> Made:
    """In a ball: the learning rate that reaches most targets on other images, on these images."""
    rows, others = optimizer_rows(subject, args)
    grid = {str(lr): attack(lr) for lr in RATES}
    tried = {}
    for lr, one in tqdm(grid.items(), leave=False):
        (tried[lr],) = descend(subject, others, {lr: one}, targets(subject, others, args)).values()
    shares = [one["reached"][-1].double().mean().item() for one in tried.values()]
    losses = [one["losses"][-1].double().mean().item() for one in tried.values()]
    best = max(range(len(RATES)), key=lambda k: (shares[k], -losses[k]))
    last = {"best": attack(RATES[best])}
    found = descend(subject, rows, last, targets(subject, rows, args))["best"]
    return found | {"shares": shares, "tuning losses": losses, "rate": RATES[best]}


def in_ball(args: argparse.Namespace) -> dict[str, Callable[[float], OptimizerAttack]]:
    """Learning rate → attack; last SGD on the sign of the gradient, which is BIM."""
    ball = LInfBall(args.epsilon_linf)

    def of(optimizer: Any, options: dict[str, float], **more: Any) -> Any:
        return lambda lr: OptimizerAttack(optimizer, lr, STEPS, ball, options=options, **more)

    made = {name: of(*given) for name, given in OPTIMIZERS.items()}
    return made | {"sgd_sign": of(torch.optim.SGD, {}, normalize=True)}


def all_attacks(args: argparse.Namespace) -> dict[str, Attack]:
    """By the name that they have in the table."""
    linf, l2, l1 = LInfBall(args.epsilon_linf), L2Ball(args.epsilon_l2), L1Ball(args.epsilon_l1)
    steps = args.steps

    def pgd(ball: Ball, **more: Any) -> PGD:
        return PGD(ball, 2.5 * float(ball.epsilon) / steps, steps, seed=args.seed, **more)

    return {
        "noise-linf": PixelNoise(linf, seed=args.seed),
        "noise-l2": PixelNoise(l2, seed=args.seed),
        "fgsm": FGSM(args.epsilon_linf),
        "fgm-l2": FGM(l2),
        "bim-linf": pgd(linf, random_start=False),
        "pgd-linf": pgd(linf),
        "pgd-linf-stop": pgd(linf, until_fooled=True),
        "pgd-linf-margin": pgd(linf, loss="margin"),
        "pgd-l2": pgd(l2),
        "pgd-l1": pgd(l1),
        "mi-fgsm-linf": PGD(linf, args.epsilon_linf / steps, steps, False, momentum=1.0),
        "apgd-linf": APGD(linf, steps),
        "apgd-linf-margin": APGD(linf, steps, loss="margin"),
        "apgd-linf-dlr": APGD(linf, steps, loss="dlr"),
        "adam-linf": OptimizerAttack(torch.optim.Adam, 0.01, steps, linf),
        "deepfool-linf": DeepFool("linf"),
        "deepfool-l2": DeepFool(),
        "cw-l2": CarliniWagner(),
    }
