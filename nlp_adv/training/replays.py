"""Every minibatch several times in a row, as FreeAT asks, through the ordinary training loop."""

from collections.abc import Callable, Iterator, Sized
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.data import Sampler
from transformers import Trainer

from nlp_adv.errors import UserError

if TYPE_CHECKING:  # the mixin goes before any Trainer; only the type checker takes it for one
    _Trainer = Trainer
else:
    _Trainer = object


class ReplaySampler(Sampler[int]):
    """Another sampler's indices, in chunks, each chunk several times in a row.

    A chunk is what one optimizer step takes in on all processes, so that the replays of a step hold
    the same micro-batches in the same order on the same process. The indices that do not fill a
    last chunk are dropped. An epoch has as many chunks as without replays, so that m epochs go
    through the data once: each goes on where the last one ended.

    Args:
        sampler: the indices of the whole data.
        chunk: how many go into one optimizer step.
        replays: m, how often a chunk comes.
        epoch: the number, from 0, of the epoch that begins.
        seed: put into the sampler's generator where it has one, plus the number of times that the
            data were gone through, so that all processes draw the same order, and find it again
            when they resume.
    """

    def __init__(
        self,
        sampler: Sampler[int],
        chunk: int,
        replays: int,
        epoch: Callable[[], int] = lambda: 0,
        seed: int | None = None,
    ) -> None:
        self.sampler, self.chunk, self.replays = sampler, chunk, replays
        self.epoch, self.seed = epoch, seed
        self._order: tuple[int, list[int]] | None = None

    def __len__(self) -> int:
        return len(cast(Sized, self.sampler)) // self.chunk * self.chunk

    def __iter__(self) -> Iterator[int]:
        epoch, chunks = self.epoch(), len(self) // self.chunk
        order = self._order_of(epoch // self.replays)
        for step in range(epoch % self.replays * chunks, (epoch % self.replays + 1) * chunks):
            start = step // self.replays * self.chunk
            yield from order[start : start + self.chunk]

    def _order_of(self, times: int) -> list[int]:
        """The data's order when they have been gone through so many times."""
        if self._order is None or self._order[0] != times:
            if self.seed is not None and hasattr(self.sampler, "generator"):
                self.sampler.generator = torch.Generator().manual_seed(self.seed + times)
            self._order = times, list(self.sampler)
        return self._order[1]


class ReplayMixin(_Trainer):
    """The Trainer's loop with m replays a batch: as many epochs and optimizer steps as without."""

    def replays(self) -> int:
        """m of the method in use; 1 for most."""
        raise NotImplementedError

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """The Trainer's; a data loader that does not replay is refused."""
        if self.replays() > 1 and not _is_replayed(dataloader):
            raise UserError(
                "Replays of batches (--adv_replays) need the Trainer's own data loader and a "
                "training set with a length."
            )
        return super().set_initial_training_values(args, dataloader)

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        sampler: Any = super()._get_train_sampler(*args, **kwargs)
        if self.replays() == 1:
            return sampler
        self._refuse_what_breaks_replays(sampler)
        steps = self.args.gradient_accumulation_steps
        chunk = self._train_batch_size * steps * self.args.world_size
        if len(sampler) < chunk:
            raise UserError(
                f"Replays (--adv_replays) are of whole optimizer steps of {chunk} rows, and there "
                f"are only {len(sampler)}; lower the batch size or the accumulation steps."
            )
        in_epoch: int = len(sampler) // chunk
        seed: int = self.args.seed if self.args.data_seed is None else self.args.data_seed

        def epoch() -> int:
            return self.state.global_step // in_epoch

        return ReplaySampler(sampler, chunk, self.replays(), epoch, seed)

    def _refuse_what_breaks_replays(self, sampler: Any) -> None:
        if sampler is None or not hasattr(sampler, "__len__"):
            raise UserError("Replays of batches (--adv_replays) need a training set with a length.")
        config = self.args.accelerator_config
        if getattr(config, "split_batches", False) or getattr(config, "dispatch_batches", False):
            raise UserError(
                "Replays of batches (--adv_replays) would not line up under split_batches or "
                "dispatch_batches; leave them off."
            )
        if getattr(self.args, "train_sampling_strategy", "") == "batch_rebalance":
            raise UserError(
                "Replays (--adv_replays) are of batches of one size, which batch_rebalance does "
                "not make; choose another train_sampling_strategy."
            )
        if self.args.ignore_data_skip:
            raise UserError(
                "A run resumes in the middle of a batch's replays (--adv_replays), which "
                "ignore_data_skip breaks; leave it off."
            )


def _is_replayed(dataloader: Any) -> bool:
    sampler = getattr(dataloader, "batch_sampler", None)
    while sampler is not None and not isinstance(sampler, ReplaySampler):
        # One process's share and a resumed run wrap a batch sampler, which wraps a sampler.
        inner = getattr(sampler, "batch_sampler", None)
        sampler = getattr(sampler, "sampler", None) if inner is None else inner
    return sampler is not None
