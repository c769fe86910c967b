"""Adversarial training inside the Hugging Face Trainer."""

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from nlp_adv.errors import UserError
from nlp_adv.methods import Method, NoAttack, WarmUp, bare, floor_cost
from nlp_adv.perturbation import Memory, ModelObjective, StepError
from nlp_adv.training.inputs import Perturbed, modality_of, perturbed
from nlp_adv.training.kept import MemoryMixin
from nlp_adv.training.loss_scaling import check_loss_scaling, share_of_a_mean
from nlp_adv.training.passes import StockPasses
from nlp_adv.training.records import (
    ConstantPredictionAlarm,
    StepLog,
    model_card_section,
    run_description,
    warn_if_below_resolution,
    write_config,
)
from nlp_adv.training.refusals import refuse_unsupported
from nlp_adv.training.replays import ReplayMixin
from nlp_adv.training.search import BUILT_IN, keep_floats, search

if TYPE_CHECKING:  # the mixin goes before any Trainer; only the type checker takes it for one
    _Trainer = Trainer
else:
    _Trainer = object


class AdversarialMixin(MemoryMixin, ReplayMixin, _Trainer):
    """Put before a Trainer class: `class T(AdversarialMixin, Seq2SeqTrainer)`.

    Every pass that must leave parameter gradients is the stock `training_step`, so accumulation,
    `num_items_in_batch`, label smoothing, mixed precision and DDP stay its own.

    Args:
        method: a method or a `WarmUp`; none builds it from `args` (`--adv …`) when training begins.
        args, kwargs: the Trainer's.

    Logs, beside the Trainer's: `adv_loss`, `clean_loss` where the method passes there,
    `adv_divergence` where it compares outputs,
    `delta_norm` and `delta_relative` (in units of the embedding norm), averaged over batch, steps
    and processes, the largest token counting for per="token"; `nonfinite_share`, the share of
    micro-batches with an inf or a nan.

    A model of text is perturbed on its word embeddings, a model whose main input is `pixel_values`
    on its pixels: ε is then in pixels of [0, 1], and `processing_class` must be the image processor
    that knows the normalisation. BatchNorm's running statistics are those of the passes that θ is
    trained on.

    Errors: UserError for a set-up in which the result would be wrong (see `refusals`), a model
    without a hookable embedding, or images without an image processor.
    """

    model_accepts_loss_kwargs: bool

    def __init__(self, *args: Any, method: Method | WarmUp | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.method = method
        self._schedule = self._build_schedule()
        self._perturbed: Perturbed | None = None
        self._step_log = StepLog()
        self._alarm = ConstantPredictionAlarm()
        self._memory = Memory()
        self._micro_batch = (-1, 0)
        self._ignores_num_items = False
        self._embedding_dtype = torch.float32
        self._loss_scaling_checked = False
        self._warned_of_resolution = False
        self.add_callback(_WhenTrainingBegins(self._begin))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's, leaving no hook behind."""
        self._memory = Memory()
        try:
            output = super().train(*args, **kwargs)
            self._alarm.check()
            return output
        finally:
            if self._perturbed is not None:
                self._perturbed.end()
                self._perturbed = None

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One micro-batch: the method's passes instead of one."""
        if not self._loss_scaling_checked:
            self._loss_scaling_checked = True
            ignores = check_loss_scaling(self, model, inputs, num_items_in_batch)
            self._ignores_num_items = ignores
        step = self.state.global_step
        method = self._schedule.at(step)
        if isinstance(method, NoAttack):
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return loss
        self._enter_training_mode(model)
        inputs = self._prepare_inputs(inputs)
        passes = StockPasses(self, super().training_step, model, inputs, num_items_in_batch)
        share = share_of_a_mean(self, num_items_in_batch, ignored=self._ignores_num_items)
        objective = self._objective(model, inputs, passes, method.passes, share)
        try:
            report = method.step(objective)
        except StepError as error:
            raise UserError(str(error)) from error
        self._step_log.add(step, report, passes.scale, objective, method)
        self._alarm.add(passes.logits, inputs.get("labels"))
        self._embedding_dtype = objective.x.dtype
        return passes.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's, with the adversarial averages beside the training loss."""
        if "loss" in logs:
            averages = self._step_log.averages()
            for key, value in averages.items():
                logs[key] = self.accelerator.reduce(value, "mean").item()
            self._alarm.check()
            if not self._warned_of_resolution and "delta_relative" in logs:
                self._warned_of_resolution = warn_if_below_resolution(
                    logs["delta_relative"], self._embedding_dtype
                )
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The Trainer's, with the method and its numbers beside the weights."""
        if self.args.should_save:  # first, since the Trainer's may push the folder to the Hub
            write_config(str(output_dir or self.args.output_dir), self._description())
        super().save_model(output_dir, _internal_call)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's, with a section on the adversarial training."""
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            with open(f"{self.args.output_dir}/README.md", "a", encoding="utf-8") as card:
                card.write(model_card_section(self._description()))

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int | None = None,
        direction: str | list[str] = "minimize",
        backend: Any = None,
        hp_name: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The Trainer's, with the backends "grid" and "random" built in: see `training.search`."""
        about = (direction, backend, hp_name)
        if backend in BUILT_IN:
            return search(self, hp_space, compute_objective, n_trials, *about, **kwargs)
        keep_floats(self.args)
        given = (hp_space, compute_objective, n_trials or 20)
        return super().hyperparameter_search(*given, *about, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """The Trainer's count of a clean step, times what the method costs."""
        clean = super().floating_point_ops(inputs)
        return round(clean * floor_cost(self._schedule.at(self.state.global_step)))

    def replays(self) -> int:
        """How often a batch comes in a row."""
        return _replays(self._build_schedule())

    def _build_schedule(self) -> WarmUp:
        if isinstance(self.method, WarmUp):
            return self.method
        if self.method is not None:
            start = getattr(self.args, "adv_start_step", 0)
            return WarmUp(self.method, start, getattr(self.args, "adv_ramp_steps", 0))
        if not hasattr(self.args, "adversarial_schedule"):
            raise UserError(
                "Which method? Pass method=… or use AdversarialTrainingArguments with --adv NAME."
            )
        schedule: WarmUp = self.args.adversarial_schedule(modality_of(self.model))
        return schedule

    def _begin(self) -> None:
        """Runs when the model is prepared: a hyperparameter search has set its numbers by now."""
        try:
            self._schedule = self._build_schedule().over(self.state.max_steps)
        except ValueError as error:
            raise UserError(str(error)) from error
        self._step_log, self._alarm = StepLog(), ConstantPredictionAlarm()
        self._micro_batch, self._loss_scaling_checked = (-1, 0), False
        self._description()  # what cannot be written down fails now, not at the first checkpoint
        if isinstance(self._schedule.method, NoAttack):
            return
        refuse_unsupported(self, self._schedule.method)
        if self._perturbed is not None:
            self._perturbed.end()
        self._perturbed = perturbed(self)
        self._perturbed.begin()

    def _objective(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        passes: StockPasses,
        count: int,
        share: float,
    ) -> ModelObjective:
        assert self._perturbed is not None
        scaler = self.accelerator.scaler
        one = torch.ones((), device=self.args.device)
        seed = self._start_seed()
        step, self._memory.slot = self._micro_batch
        self._memory.replay = step % _replays(self._schedule)
        return self._perturbed.objective(
            model,
            inputs,
            forward=passes.forward,
            backward=passes.backward,
            unsynced=lambda: self.accelerator.no_sync(model),
            passes=count,
            seed=seed,
            loss_scale=one if scaler is None else scaler.scale(one),
            memory=self._memory,
            share=share,
            first_block=getattr(self.args, "adv_first_block", None),
        )

    def _start_seed(self) -> int:
        """Of (seed, step, micro-batch, rank): nothing to save, and resuming finds it again."""
        step = self.state.global_step
        index = self._micro_batch[1] + 1 if self._micro_batch[0] == step else 0
        self._micro_batch = (step, index)
        seed = getattr(self.args, "adv_seed", None)
        seed = self.args.seed if seed is None else seed
        key = f"{seed}/{step}/{index}/{self.args.process_index}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big")

    def _enter_training_mode(self, model: nn.Module) -> None:
        """What the stock step does before its pass; ours come earlier."""
        model.train()
        optimizer: Any = self.optimizer
        if callable(getattr(optimizer, "train", None)):  # schedule-free optimizers
            optimizer.train()

    def _description(self) -> dict[str, Any]:
        excluded = getattr(self.args, "adv_exclude_special_tokens", False)
        return run_description(self._schedule, excluded)


class AdversarialTrainer(AdversarialMixin, Trainer):
    """`Trainer` with adversarial training.

    AdversarialTrainer(model=…, args=TrainingArguments(…), …, method=FreeLB(L2Ball(0.45), …))
    """


class _WhenTrainingBegins(TrainerCallback):
    """Calls back when the model is prepared and before anything has run."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._begin()


def _replays(schedule: WarmUp) -> int:
    return int(getattr(bare(schedule.method), "replays", 1))
