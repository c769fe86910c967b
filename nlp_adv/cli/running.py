"""What training runs share, whatever they train on: folders, devices, the plain run beside."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from nlp_adv.errors import UserError
from nlp_adv.methods import Method, describe, floor_cost
from nlp_adv.training.arguments import AdversarialTrainingArguments


def check_output_folder(training: AdversarialTrainingArguments, *, overwrite: bool) -> None:
    """Refuse to write over another run, or to resume what is not there.

    Raises:
        UserError: with the flag that mends it.
    """
    folder = Path(str(training.output_dir))
    resume = training.resume_from_checkpoint
    if resume in ("true", "True", "last"):
        last: Callable[[str], str | None] = get_last_checkpoint
        resume = last(str(folder)) if folder.is_dir() else None
        if resume is None:
            raise UserError(f"There is no checkpoint in {folder} to resume from.")
        training.resume_from_checkpoint = resume
    if resume is not None and not (Path(resume) / "trainer_state.json").is_file():
        raise UserError(f"There is no checkpoint {resume} to resume from.")
    if folder.is_file():
        raise UserError(f"--output_dir {folder} is a file; name a folder.")
    taken = folder.is_dir() and any(folder.iterdir())
    if taken and resume is None and not overwrite:
        raise UserError(
            f"{folder} is not empty; it may hold another run. Name a new --output_dir, continue "
            f"that run with --resume_from_checkpoint last, or pass --overwrite_output_dir true."
        )


def use_one_gpu(training: AdversarialTrainingArguments) -> None:
    """One process on several GPUs would be nn.DataParallel, which has no per-example δ."""
    if training.n_gpu > 1:
        print(
            f"Note: {training.n_gpu} GPUs are visible and this run uses one; for all, start it "
            f"with `torchrun --nproc_per_node {training.n_gpu} -m nlp_adv.cli.main train … "
            f"--output_dir FOLDER`.",
            file=sys.stderr,
        )
        training._n_gpu = 1


def announce(training: AdversarialTrainingArguments, method: Method) -> None:
    """Say how a run trains and what a step costs."""
    if training.process_index != 0:
        return
    numbers = {k: v for k, v in describe(method).items() if k != "method"}
    shown = ", ".join(f"{key} {value}" for key, value in numbers.items())
    print(
        f"\nTraining with --adv {method.name}{f' ({shown})' if shown else ''}: a step costs "
        f"at least {floor_cost(method):.3g} ordinary ones. Writing to {training.output_dir}.",
        file=sys.stderr,
    )


_KEPT_BY_PLAIN = ("adv_seed", "adv_embedding", "adv_mend_loss_scaling")


def plain_arguments(training: AdversarialTrainingArguments) -> AdversarialTrainingArguments:
    """The same run without attack, in a folder inside the run's."""
    plain = copy.copy(training)
    for name in vars(training):
        if name.startswith("adv_") and name not in _KEPT_BY_PLAIN:
            setattr(plain, name, AdversarialTrainingArguments.__dataclass_fields__[name].default)
    plain.adv = "none"
    plain.output_dir = str(Path(str(training.output_dir)) / "plain")
    plain.resume_from_checkpoint = None
    plain.push_to_hub = False
    return plain
