"""The optimizer steps of a run: where the method acts, and whether it did act.

A user's Trainer may override `training_step` above or below the mixin, with or without calling its
parent. Whatever it does, it asks `self.compute_loss` for the loss that it trains on. That call is
answered by the method's passes, and what the caller does with the loss is watched.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from nlp_adv.errors import UserError
from nlp_adv.training.exchange import stepping_once
from nlp_adv.training.finiteness import NonFiniteAlarm
from nlp_adv.training.passes import loss_scale
from nlp_adv.training.replaced import replaced_attributes


class Steps:
    """Answers `compute_loss` inside optimizer steps, and checks that the answers are used.

    Args:
        trainer: the Trainer.
        begin: called when the model is prepared and before anything has run.
        decide: called as an optimizer step begins.
        attack: (the user's `compute_loss`, model, inputs, its options) → what to return for it,
            after the method's passes.
        acts: whether the method acts at the Trainer's present step.
    """

    def __init__(
        self,
        trainer: Any,
        begin: Callable[[], None],
        decide: Callable[[], None],
        attack: Callable[..., Any],
        acts: Callable[[], bool],
    ) -> None:
        self._trainer, self._begin, self._decide = trainer, begin, decide
        self._attack, self._acts = attack, acts
        self._open = self._inside = self._checked = False
        self._user: Any = None
        self._prepared = ExitStack()  # what is hung onto the prepared model and optimizer
        self.alarm = NonFiniteAlarm(trainer)
        self._start()

    def _start(self) -> None:
        self._attacked = 0
        self._taken: list[Tensor] = []  # what losses were multiplied by, and what by rights
        self._made: list[Tensor] = []

    @contextmanager
    def of_a_run(self) -> Iterator[None]:
        """For the time of `train()`, by the handler's events: callbacks could be removed."""
        handler = self._trainer.callback_handler
        events = {
            "on_train_begin": self._run_begins,
            "on_step_begin": self._step_begins,
            "on_step_end": self._step_ends,
        }
        watched = {name: _after(do, getattr(handler, name)) for name, do in events.items()}
        try:
            with self._prepared, replaced_attributes(handler, **watched), self._answering():
                yield
        finally:
            self._open = False

    @contextmanager
    def of_its_own(self) -> Iterator[None]:
        """For a `training_step` outside `train()`; inside, there is nothing to do."""
        if self._open:
            yield
            return
        self._begin()
        self._step_begins()
        try:
            with self._answering():
                yield
            self._step_ends()
        finally:
            self._open = False

    @contextmanager
    def _answering(self) -> Iterator[None]:
        self._user = self._trainer.compute_loss
        with replaced_attributes(self._trainer, compute_loss=self._answer):
            yield

    def _answer(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        options |= dict(zip(("return_outputs", "num_items_in_batch"), args, strict=False))
        # Evaluation comes between steps, metrics without a graph, and a pass of the method's own is
        # the user's to make.
        if not self._open or self._inside or not torch.is_grad_enabled():
            return self._user(model, inputs, **options)
        self._inside = True
        try:
            returned = self._attack(self._user, model, inputs, options)
        finally:
            self._inside = False
        self.alarm.add(returned[0] if isinstance(returned, tuple) else returned)
        return returned

    def _run_begins(self) -> None:
        self.alarm, self._checked = NonFiniteAlarm(self._trainer), False
        self._start()
        self._begin()
        self._prepared.close()  # a search for a batch size that fits begins again
        self._prepared.enter_context(stepping_once(self._trainer.accelerator, self._is_out))
        optimizer = self._trainer.optimizer
        if self._trainer.is_deepspeed_enabled:
            return  # it moves the weights in the method's last pass; `_step_ends` looks
        while not hasattr(optimizer, "_optimizer_step_pre_hooks"):  # accelerate wraps torch's
            optimizer = getattr(optimizer, "optimizer", None)
            if optimizer is None:
                return
        handle = optimizer.register_step_pre_hook(lambda *args: self._check_part())
        self._prepared.callback(handle.remove)

    def _is_out(self) -> bool:
        """A loss whose gradient is there was handed out, and nobody called backward on it yet."""
        return self._open and not self._inside and len(self._taken) < self._attacked

    def _step_begins(self) -> None:
        self._open = True
        self._start()
        self._decide()

    def attacked(self, scale: Tensor) -> list[Tensor]:
        """The method has made its passes; `scale` is what its losses were multiplied by.

        Returns:
            A list for what the caller of `compute_loss` multiplies the loss by.
        """
        self._attacked += 1
        self._made.append(scale * loss_scale(self._trainer))
        return self._taken

    def _check_part(self) -> None:
        """Before the weights move: did the method act on every micro-batch?"""
        trainer = self._trainer
        if not self._open or not self._acts():
            return
        self._check_use()
        wanted = getattr(trainer, "current_gradient_accumulation_steps", 1)
        if self._attacked >= wanted:
            return
        # A subclass may pass over a batch; then there is no gradient either.
        if all(parameter.grad is None for parameter in trainer.model.parameters()):
            return
        raise UserError(
            f"The adversarial method took part in {self._attacked} of {wanted} micro-batches of "
            f"step {trainer.state.global_step}: {type(trainer).__name__} trains on a loss that did "
            f"not come from self.compute_loss; take it from there, or call super().training_step."
        )

    def _step_ends(self) -> None:
        if self._trainer.is_deepspeed_enabled:
            self._check_part()
        self._open = False
        self._check_use()  # again, for a step without an optimizer
        self.alarm.step_ends(self._trainer.state.global_step)

    def _check_use(self) -> None:
        """Did the caller of `compute_loss` do with the losses what the Trainer's own step does?"""
        name = type(self._trainer).__name__
        if len(self._taken) < self._attacked:
            raise UserError(
                f"{name} asked self.compute_loss for {self._attacked} losses in a step and called "
                f"backward on {len(self._taken)}, while the gradients of all of them are there: "
                f"call backward once on each."
            )
        first, self._checked = not self._checked, self._checked or bool(self._taken)
        if self._taken and (first or self.alarm.may_wait()):
            got, made = torch.stack(self._taken), torch.stack(self._made[: len(self._taken)])
            if not torch.allclose(got.to(made.dtype), made, rtol=1e-3):
                raise UserError(
                    f"{name} multiplies the loss by {float(got[0]):.4g} where the Trainer's own "
                    f"training_step multiplies it by {float(made[0]):.4g}, which would weigh the "
                    f"passes of a step unequally: change the loss in compute_loss."
                )


def _after(first: Callable[[], None], event: Callable[..., Any]) -> Callable[..., Any]:
    def both(*args: Any, **kwargs: Any) -> Any:
        first()
        return event(*args, **kwargs)

    return both
