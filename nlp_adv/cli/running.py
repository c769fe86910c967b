"""What training runs share, whatever they train on: folders, devices, the plain run beside."""

import copy
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from nlp_adv.errors import UserError
from nlp_adv.folders import alone_in, is_empty
from nlp_adv.methods import Method
from nlp_adv.training.arguments import AdversarialTrainingArguments
from nlp_adv.training.checkpoints import lack, newest_whole
from nlp_adv.training.kept import none_whole, not_whole
from nlp_adv.training.records import in_words


def alone_in_output(training: AdversarialTrainingArguments) -> AbstractContextManager[None]:
    """No other command writes into the output folder; one process of several holds it for all.

    Raises:
        UserError: another command does.
    """
    return alone_in(str(training.output_dir)) if training.process_index == 0 else nullcontext()


def check_output_folder(training: AdversarialTrainingArguments, *, overwrite: bool) -> None:
    """Refuse to write over another run, or to resume what is not there.

    Raises:
        UserError: with the flag that mends it.
    """
    folder = Path(str(training.output_dir))
    resume = training.resume_from_checkpoint
    if resume is not None and str(resume).lower() in ("true", "last"):
        newest, skipped = newest_whole(folder, training)
        if newest is None:
            raise UserError(none_whole(folder, skipped))
        for one in skipped if training.process_index == 0 else ():
            print(f"Note: {one}; going on from {newest}.", file=sys.stderr)
        resume = str(newest)
    elif resume is not None and str(resume).lower() in ("false", "none", ""):
        resume = None
    elif resume is not None:
        if not Path(resume).is_dir():
            raise UserError(f"There is no checkpoint {resume} to resume from.")
        what = lack(Path(resume), training)
        if what is not None:
            raise UserError(not_whole(resume, what))
    training.resume_from_checkpoint = resume
    if not is_empty(folder) and resume is None and not overwrite:
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


def announce(training: AdversarialTrainingArguments, method: Method, words: str = "") -> None:
    """Say how a run trains and what a step costs; `words` is what is attacked besides."""
    if training.process_index != 0:
        return
    print(
        f"\nTraining with {in_words(method)}{words}. Writing to {training.output_dir}.",
        file=sys.stderr,
    )


_KEPT_BY_PLAIN = ("adv_seed", "adv_embedding", "adv_site", "adv_span", "adv_mend_loss_scaling")


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
