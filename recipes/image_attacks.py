"""The classic experiments on adversarial images: FGSM over ε, optimizers on pixels, all attacks.

    python recipes/image_attacks.py --data_dir FASHION_MNIST_FOLDER
    python recipes/image_attacks.py --model_name_or_path microsoft/resnet-50 --images PICTURES

fgsm: one step of ε (Goodfellow et al., ICLR 2015) and its inverse, which goes down the loss of the
right class. optimizers: the pixels of an image as the parameter of SGD, RMSprop, Adagrad and Adam,
towards another class, at one learning rate, then each at its best. table: what each attack fools,
how far it goes and what that takes, and the checks against masking.

Without a model a small ResNet is trained on the data first. What is finished is kept in the output
folder and not made again, unless the model, the images or a setting changed. PICTURES is a folder
with one sub-folder a class, named as the model's classes; or picture files, or a folder of them,
whose right class is then what the model answers. The figures need `nlp_adv[plots]`.
"""

import argparse
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from image_attacks_experiments import (
    Made,
    Subject,
    all_attacks,
    at_best_rate,
    at_one_rate,
    fooled,
    in_ball,
    masking,
    optimizer_rows,
    over_epsilon,
)
from image_attacks_report import write_results
from PIL import Image
from torch import Tensor

import nlp_adv
from nlp_adv.cli.loading import LoadedClassifier, load_classifier
from nlp_adv.cli.main import main as nlp_adv_command
from nlp_adv.data.image_sources import load_images
from nlp_adv.data.images import Images
from nlp_adv.errors import UserError
from nlp_adv.sites.normalisation import logits_of, parse_epsilon

EXPERIMENTS = ("fgsm", "optimizers", "table")
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")
CLASSES += ("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def load(args: argparse.Namespace) -> Subject:
    """Model and images; the model is trained here where none is given."""
    name = args.model_name_or_path or trained(args)
    classifier = load_classifier(name)
    names, model = classifier.label_names, classifier.model
    if args.images:
        images = pictures(args.images, classifier)
    else:
        there = load_images(
            args.data_dir, processor=classifier.processor, channels=classifier.channels
        )
        images = there.get("test", next(iter(there.values()))).named_as(names)
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
        names = CLASSES if names == tuple(map(str, range(10))) else names
    return Subject(model, x, y, right, names, title)


def trained(args: argparse.Namespace) -> str:
    """The folder of the model, which is trained if it is not there."""
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
    inside = [sorted(path.iterdir()) if path.is_dir() else [path] for path in map(Path, given)]
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


def handful(subject: Subject, first: int, count: int = 5) -> list[int]:
    """Right images of different classes, from one on."""
    chosen: dict[int, int] = {}
    for index in subject.right[subject.right >= first].tolist():
        chosen.setdefault(int(subject.y[index]), index)
    if not chosen:
        raise UserError(f"The model has no image right from --image {first} on.")
    return sorted(chosen.values())[:count]


def digest(subject: Subject) -> str:
    """Of weights and images."""
    found = hashlib.sha256()
    for tensor in (*subject.model.state_dict().values(), subject.x, subject.y):
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:12]


def kept(path: Path, settings: dict[str, Any], make: Callable[[], Made]) -> Made:
    """What was made with these settings, or else is made now; all of it is written, or nothing."""
    if path.exists():
        made: Made = torch.load(path, weights_only=True)
        if made["settings"] == settings:
            return made
    made = make() | {"settings": settings}
    torch.save(made, path.with_suffix(".partial"))
    path.with_suffix(".partial").replace(path)
    return made


def run(subject: Subject, shown: list[int], args: argparse.Namespace) -> dict[str, Any]:
    """What the page is about, by experiment."""
    on = {"nlp_adv": nlp_adv.__version__, "on": digest(subject), "target": args.target}

    def keep(name: str, make: Callable[[], Made], **settings: Any) -> Made:
        print(name, flush=True)
        return kept(args.output_dir / f"{name}.pt", on | settings, make)

    made: dict[str, Any] = {}
    if "fgsm" in args.experiments:
        made["fgsm"] = keep("fgsm", partial(over_epsilon, subject, args))
    if "optimizers" in args.experiments:
        lr = {"lr": args.learning_rate}
        one = torch.tensor(shown[:1])
        many = optimizer_rows(subject, args, most=args.optimizer_examples)[0]
        made["one"] = keep("one", partial(at_one_rate, subject, one, args), image=shown[0], **lr)
        many_settings = {"images": len(many), **lr}
        made["many"] = keep("many", partial(at_one_rate, subject, many, args), **many_settings)
        made["best"] = {}
        for name, attack in in_ball(args).items():
            settings = {"attack": str(attack(1.0)), "images": args.tuning_examples}
            make = partial(at_best_rate, subject, attack, args)
            made["best"][name] = keep(f"best-{name}", make, **settings)
    if "table" in args.experiments:
        chosen = {k: v for k, v in all_attacks(args).items() if k in (args.attacks or [k])}
        made["table"] = {}
        for name, attack in chosen.items():
            make = partial(fooled, subject, attack, shown, args.batch_size)
            settings = {"attack": str(attack), "shown": shown, "batch": args.batch_size}
            made["table"][name] = keep(f"table-{name}", make, **settings)
        settings = {"epsilon": args.epsilon_linf, "steps": args.steps}
        made["checks"] = keep("checks", partial(masking, subject, args), **settings)["checks"]
    return made


def arguments(argv: list[str] | None) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS), choices=EXPERIMENTS)
    parser.add_argument("--model_name_or_path", help="a folder or Hub name; trained here without")
    parser.add_argument("--data_dir", help="the folder of Fashion-MNIST's IDX files")
    parser.add_argument("--images", nargs="+", help="picture files, or a folder of pictures")
    parser.add_argument("--image", type=int, default=0, help="the first one that is shown")
    parser.add_argument("--target", type=int, help="class of the optimizers; the next without")
    parser.add_argument("--examples", type=int, default=1000, help="the first so many images")
    parser.add_argument("--optimizer_examples", type=int, default=100)
    parser.add_argument("--tuning_examples", type=int, default=400, help="for their best rates")
    parser.add_argument("--epsilon_target", type=parse_epsilon, default=16 / 255, help="there, L∞")
    parser.add_argument("--learning_rate", type=float, default=0.01, help="of all optimizers")
    parser.add_argument("--attacks", nargs="+", help="rows of the table; all without")
    parser.add_argument("--epsilon_linf", type=parse_epsilon, default=8 / 255)
    parser.add_argument("--epsilon_l2", type=parse_epsilon, default=0.5)
    parser.add_argument("--epsilon_l1", type=parse_epsilon, default=5.0)
    parser.add_argument("--steps", type=int, default=20, help="of the table's attacks in a ball")
    parser.add_argument("--batch_size", type=int, default=250, help="images attacked at once")
    parser.add_argument("--epochs", type=int, default=5, help="of the training")
    parser.add_argument("--seed", type=int, default=0, help="of training, starts and noise")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/image_attacks"))
    parser.add_argument(
        "--results", type=Path, help="folder of the page and figures (default: the output folder)"
    )
    args = parser.parse_args(argv)
    numbers = ("examples", "optimizer_examples", "tuning_examples", "steps", "batch_size", "epochs")
    if min(getattr(args, name) for name in numbers) < 1:
        parser.error(f"--{', --'.join(numbers)} must be at least 1")
    if args.data_dir is None and (args.images is None or args.model_name_or_path is None):
        parser.error("give --data_dir, or --model_name_or_path and --images")
    unknown = set(args.attacks or ()) - set(all_attacks(args))
    if unknown:
        parser.error(f"--attacks can be {', '.join(all_attacks(args))}, not {', '.join(unknown)}")
    return args, parser


def main(argv: list[str] | None = None) -> None:
    args, parser = arguments(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    try:
        subject = load(args)
        if args.target is not None and not 0 <= args.target < len(subject.names):
            raise UserError(f"--target is a class from 0 to {len(subject.names) - 1}.")
        shown = handful(subject, args.image)
        if args.target == int(subject.y[shown[0]]):
            raise UserError(f"Image {shown[0]} is of the class --target; give another --image.")
        made = run(subject, shown, args)
        write_results(made, subject, shown, args, args.results or args.output_dir)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
