"""Adversarial training inside the Hugging Face Trainer."""

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainingArguments
from transformers.trainer_utils import HPSearchBackend

from nlp_adv.columns import ADV_ROWS
from nlp_adv.errors import UserError
from nlp_adv.methods import Method, NoAttack, Schedule, WarmUp, bare, floor_cost
from nlp_adv.perturbation import ModelObjective, StepError, random_sources, unwrapped
from nlp_adv.sites.span import Span, span_of
from nlp_adv.training.beginning import Beginning, check_logs, schedule_of
from nlp_adv.training.exchange import unsynced
from nlp_adv.training.heard_logits import HeardLogits
from nlp_adv.training.inputs import Perturbed, scale_of, site_text
from nlp_adv.training.kept import MemoryMixin
from nlp_adv.training.loss_scaling import check_loss_scaling, share_of_a_mean
from nlp_adv.training.masks import MaskMixin, preferences
from nlp_adv.training.passes import StockPasses, loss_scale
from nlp_adv.training.recompiles import RecompileAlarm
from nlp_adv.training.records import (
    ConstantPredictionAlarm,
    StepLog,
    complete_model_card,
    run_description,
    warn_if_below_resolution,
    write_config,
)
from nlp_adv.training.refusals import refuse_one_epoch, refuse_unsupported
from nlp_adv.training.replays import ReplayMixin
from nlp_adv.training.search import searching, set_up, with_backend
from nlp_adv.training.steps import Steps

if TYPE_CHECKING:  # the mixin goes before any Trainer; only the type checker takes it for one
    _Trainer = Trainer
else:
    _Trainer = object


class AdversarialMixin(MemoryMixin, ReplayMixin, MaskMixin, _Trainer):
    """Put before a Trainer class: `class T(AdversarialMixin, Seq2SeqTrainer)`.

    Every pass that must leave parameter gradients is the stock `training_step`, so accumulation,
    `num_items_in_batch`, label smoothing, mixed precision and DDP stay its own. `train`, `log`
    and `save_model` are handed on with the arguments they were called with, as overrides behind the
    mixin may take fewer than the Trainer's.

    Args:
        method: a method or a schedule, such as a `WarmUp`; none builds it from `args` (`--adv …`)
            when training begins.
        args, kwargs: the Trainer's.

    Logs, beside the Trainer's: `adv_loss`, `clean_loss` where the method passes there,
    `adv_divergence` where it compares outputs,
    `delta_norm` and `delta_relative` (in units of the embedding norm), averaged over batch, steps
    and processes, the largest token counting for per="token"; `nonfinite_share`, the share of
    micro-batches with an inf or a nan.

    A model of text is perturbed on its word embeddings, a model whose main input is `pixel_values`
    on its pixels, and either on the modules that `--adv_site` names. On pixels ε is in those of
    [0, 1], and `processing_class` must be the image processor that knows the normalisation.
    BatchNorm's running statistics are those of the passes that θ is trained on.

    A column `adv_mask` of the data, 1 for each token that may be perturbed and 0 for the others,
    multiplies the mask of δ; no collator, model, loss or evaluation sees it. In a row of a causal
    language model whose labels leave out a prompt, δ moves on the prompt alone (`--adv_span`).

    Errors: UserError for a set-up in which the result would be wrong (see `refusals`), a model
    without a hookable embedding, or images without an image processor.
    """

    model_accepts_loss_kwargs: bool

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if Trainer in order and order.index(Trainer) < order.index(AdversarialMixin):
            first = next(base.__name__ for base in cls.__bases__ if issubclass(base, Trainer))
            raise UserError(
                f"class {cls.__name__} puts {first} before AdversarialMixin, which would never act "
                f"then: write class {cls.__name__}(AdversarialMixin, {first})."
            )

    def __init__(self, *args: Any, method: Method | Schedule | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._set_up(method)

    def _set_up(self, method: Method | Schedule | None) -> None:
        """After the Trainer's `__init__`: alone where an instance gets its class later."""
        self._method = method
        self._schedule = self._build_schedule()
        self._perturbed: Perturbed | None = None
        self._heard: HeardLogits | None = None
        self._steps = Steps(self, self._begin, self._decide, self._attacked_loss, self._acts)
        self._reset()

    def _reset(self) -> None:
        self._step_log, self._alarm = StepLog(), ConstantPredictionAlarm()
        self._recompiles = RecompileAlarm()
        self._beginning = Beginning(self)
        self._memory = self._new_memory()
        self._micro_batch = (-1, 0)
        self._ignores_num_items = False
        self._loss_scaling_checked = False
        self._embedding_dtype = torch.float32
        self._span: Span = "all"
        self._warned_of_resolution = False

    @property
    def method(self) -> Method | Schedule | None:
        """The method that was given; setting another one takes effect at once, also in a run."""
        return self._method

    @method.setter
    def method(self, method: Method | Schedule | None) -> None:
        self._method = method
        self._schedule = self._build_schedule()
        if self._perturbed is not None or self.is_in_train:
            self._choose()

    @property
    def attack_schedule(self) -> Schedule:
        """The schedule of this run: it says which method each optimizer step uses."""
        return self._schedule

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as `Trainer.train` does, and remove all hooks from the model at the end.

        Raises:
            UserError: the method did not take part in a step in which it should have, or the loss
                or the weights are inf or nan.
        """
        self._memory = self._new_memory()
        if kwargs.get("trial") is not None:
            self._hp_search_setup(kwargs["trial"])
        try:
            with self._steps.of_a_run():
                output = super().train(*args, **kwargs)
            self._alarm.check()
            self._recompiles.check()
            self._steps.alarm.check(self.state.global_step)
            self._steps.alarm.check_weights()
            self._beginning.check_end(self._schedule)
            return output
        finally:
            self._end()

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One micro-batch; the method's passes are made where it calls `compute_loss`."""
        alone = self._perturbed is None
        self._adv_mask = self._pairs = None  # an evaluation may have left its own
        try:
            with self._steps.of_its_own():
                loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return loss
        finally:
            if alone and not self.is_in_train:
                self._end()

    def _attacked_loss(
        self, compute_loss: Callable[..., Any], model: nn.Module, inputs: Any, options: Any
    ) -> Any:
        """What `compute_loss` returns in a step: its own loss, or that of the method's passes."""
        num_items = options.get("num_items_in_batch")
        if not self._loss_scaling_checked:
            self._loss_scaling_checked = True
            self._ignores_num_items = check_loss_scaling(self, model, inputs, num_items)
        step = self.state.global_step
        method = self._schedule.at(step)
        if isinstance(method, NoAttack):
            return compute_loss(model, inputs, **options)
        assert self._heard is not None
        asked = bool(options.get("return_outputs"))
        wants = {"asks": asked, "compares": getattr(bare(method), "compares_outputs", False)}
        passes = StockPasses(self, compute_loss, model, inputs, options, self._heard, **wants)
        share = share_of_a_mean(self, num_items, ignored=self._ignores_num_items)
        try:
            objective = self._objective(model, inputs, passes, method.passes, share)
            report = method.step(objective)
            if self.args.world_size > 1:
                objective.check_passes()
        except StepError as error:
            raise UserError(str(error)) from error
        self._step_log.add(step, report, passes.scale, objective, method)
        labels = inputs.get("labels") if isinstance(inputs, Mapping) else None
        self._alarm.add(passes.logits, labels)
        self._embedding_dtype = objective.x.dtype
        loss = passes.ready(self._steps.attacked(passes.scale))
        return (loss, passes.outputs) if asked else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The Trainer's, with the adversarial averages beside the training loss."""
        if "loss" in logs:
            self._steps.alarm.check(self.state.global_step)
            averages = self._step_log.averages()
            for key, value in averages.items():
                logs[key] = self.accelerator.reduce(value, "mean").item()
            self._alarm.check()
            self._recompiles.check()
            if not self._warned_of_resolution and "delta_relative" in logs:
                self._warned_of_resolution = warn_if_below_resolution(
                    logs["delta_relative"], self._embedding_dtype
                )
        super().log(logs, *args, **kwargs)

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's, with the method and its numbers beside the weights."""
        if self.args.should_save:  # first, since the Trainer's may push the folder to the Hub
            given = dict(zip(("output_dir", "_internal_call"), args, strict=False)) | kwargs
            kept = self._kept() if given.get("_internal_call") else {}
            folder = given.get("output_dir") or self.args.output_dir
            write_config(str(folder), self._description() | kept)
        super().save_model(*args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's, with tags and a section on the adversarial training."""
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            path = f"{self.args.output_dir}/README.md"
            complete_model_card(path, self._description(), self._schedule.method)

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
        """The Trainer's, each trial from the arguments as they are now: see `training.search`."""
        backend = with_backend(backend, kwargs)
        about = (hp_space, compute_objective, n_trials or 20, direction, backend, hp_name)
        with searching(self):
            return super().hyperparameter_search(*about, **kwargs)

    def _hp_search_setup(self, trial: Any) -> None:
        """The Trainer's, which `train` has called already: the trial's seed holds for its model."""
        if self.hp_search_backend == HPSearchBackend.OPTUNA and trial is not None:
            set_up(self, trial)
        super()._hp_search_setup(trial)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """The Trainer's count of a clean step, times what the method costs."""
        clean = super().floating_point_ops(inputs)
        return round(clean * floor_cost(self._schedule.at(self.state.global_step)))

    def replays(self) -> int:
        """How many times in a row training uses each batch (FreeAT's m); 1 for other methods."""
        return _replays(self._build_schedule())

    def _build_schedule(self) -> Schedule:
        if isinstance(self.method, Schedule):
            return self.method
        if self.method is not None:
            return schedule_of(self.method, self.args)
        if not hasattr(self.args, "adversarial_schedule"):
            raise UserError(
                "Which method? Pass method=… or use AdversarialTrainingArguments with --adv NAME."
            )
        schedule: Schedule = self.args.adversarial_schedule(scale_of(self.model, self.args))
        return schedule

    def _decide(self) -> None:
        """Runs as an optimizer step begins: may what the attack waits for have happened?"""
        self._schedule = self._beginning.of(self._schedule)

    def _acts(self) -> bool:
        return not isinstance(self._schedule.at(self.state.global_step), NoAttack)

    def _begin(self) -> None:
        """Runs when the model is prepared: a hyperparameter search has set its numbers by now."""
        if self.is_in_train:  # a loop of one's own may call training_step many times
            memory = self._memory  # what a checkpoint has brought
            self._reset()
            self._memory = memory
        self._schedule = self._build_schedule()
        self._choose()

    def _choose(self) -> None:
        self._schedule = self._over_run(self._schedule)
        check_logs(self._schedule, self.args)
        if self._schedule.waits_for is not None and not self.is_in_train:
            raise UserError(
                f"--adv_start_when {self._schedule.waits_for} waits for what a run logs, which is "
                f"only there in the Trainer's train(); in a loop of your own give a start_step."
            )
        self._description()  # what cannot be written down fails now, not at the first checkpoint
        self._end()
        if isinstance(self._schedule.method, NoAttack) and type(self._schedule) is WarmUp:
            return
        refuse_unsupported(self, self._schedule.method)
        refuse_one_epoch(self._schedule.method, self.state.max_steps, self._epoch_steps)
        self._perturbed = Perturbed(self)
        self._perturbed.begin()
        self._heard = HeardLogits(cast(nn.Module, self.model))

    def _end(self) -> None:
        """Leave nothing in the model."""
        for kept in (self._perturbed, self._heard):
            if kept is not None:
                kept.end()
        self._perturbed = self._heard = None

    def _objective(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        passes: StockPasses,
        count: int,
        share: float,
    ) -> ModelObjective:
        assert self._perturbed is not None
        seed = self._start_seed()
        step, self._memory.slot = self._micro_batch
        self._memory.replay = step % _replays(self._schedule)
        wanted, forward = getattr(self.args, "adv_span", None), passes.forward
        if getattr(bare(self._schedule.method), "reads_completions", False):
            inputs, forward = self._pairs or preferences(inputs), passes.forward_alone
        if ADV_ROWS in inputs:
            self._span = wanted or "prompt"
        else:
            self._span = "all" if self._adv_mask is not None else span_of(model, inputs, wanted)
        return self._perturbed.objective(
            model,
            inputs,
            mask=self._adv_mask,
            span=self._span,
            forward=forward,
            backward=passes.backward,
            unsynced=lambda: unsynced(self.accelerator, model),
            passes=count,
            seed=seed,
            loss_scale=loss_scale(self),
            generators=random_sources(self, unwrapped(cast(nn.Module, self.model))),
            memory=self._memory,
            share=share,
            first_block=getattr(self.args, "adv_first_block", None),
            reference=getattr(self, "ref_model", None),  # trl's, where it keeps one
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

    def _description(self) -> dict[str, Any]:
        excluded = getattr(self.args, "adv_exclude_special_tokens", False)
        site = site_text(self.args, self._schedule.method, cast(nn.Module, self.model))
        # Before the first minibatch the default span is not known.
        found = None if self._span == "all" else self._span
        span = getattr(self.args, "adv_span", None) or found
        return run_description(self._schedule, excluded, site, self.train_dataset, span)


class AdversarialTrainer(AdversarialMixin, Trainer):
    """The Hugging Face `Trainer` with adversarial training.

    It takes what `Trainer` takes, in the same order, and a `method`. Everything else is as there:
    `train`, `evaluate`, `predict`, checkpoints, callbacks, several GPUs.

        from nlp_adv import AdversarialTrainer, FreeLB, L2Ball
        from nlp_adv.data.text_demo import demo_dataset, demo_model, demo_tokenizer
        from transformers import TrainingArguments

        data = demo_dataset()
        tokenizer = demo_tokenizer(data["train"]["text"])
        data = data.map(lambda rows: tokenizer(rows["text"]), batched=True)
        trainer = AdversarialTrainer(
            model=demo_model(tokenizer),
            args=TrainingArguments("runs/demo", max_steps=10),
            train_dataset=data["train"],
            processing_class=tokenizer,
            method=FreeLB(L2Ball(0.45), step_size=0.1, steps=3),
        )
        trainer.train()

    Other Trainers take the mixin: `class T(AdversarialMixin, Seq2SeqTrainer): pass`.

    Args:
        model, args, data_collator, train_dataset, eval_dataset, processing_class, model_init,
            compute_loss_func, compute_metrics, callbacks, optimizers, optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics: as in `transformers.Trainer`. With
            `AdversarialTrainingArguments` as `args` the method can come from its flags, such as
            `adv="freelb"`, instead of `method`.
        method: the training method, such as `FreeLB(…)`, or a schedule of one, such as
            `WarmUp(FreeLB(…), start_step=100)`. Its lengths (ε, step size) are in absolute units of
            the embeddings, or of pixels in [0, 1]; `Scaled(method, unit="relative")` measures them
            in shares of the embedding norm.
        kwargs: arguments that only newer versions of `Trainer` know.

    Raises:
        UserError: there is neither a `method` nor `--adv` among the arguments; when training
            begins, also what `AdversarialMixin` refuses.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_loss_func: Callable[..., Tensor] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, Any]] | None = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[Any], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
        *,
        method: Method | Schedule | None = None,
        **kwargs: Any,
    ) -> None:
        named = {
            "model": model,
            "args": args,
            "data_collator": data_collator,
            "train_dataset": train_dataset,
            "eval_dataset": eval_dataset,
            "processing_class": processing_class,
            "model_init": model_init,
            "compute_loss_func": compute_loss_func,
            "compute_metrics": compute_metrics,
            "callbacks": callbacks,
            "optimizer_cls_and_kwargs": optimizer_cls_and_kwargs,
            "preprocess_logits_for_metrics": preprocess_logits_for_metrics,
        }
        # What was not given is not passed on: another version of Trainer, or a Trainer that comes
        # next in a subclass's MRO, may not know it.
        given = {name: value for name, value in named.items() if value is not None}
        if tuple(optimizers) != (None, None):
            given["optimizers"] = optimizers
        super().__init__(method=method, **given, **kwargs)


def _replays(schedule: Schedule) -> int:
    return int(getattr(bare(schedule.method), "replays", 1))
