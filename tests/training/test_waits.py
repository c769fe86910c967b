"""No step waits for the device more than the model itself does: a CPU is asked what it would read.

Reading one number (`.item()`, `bool(tensor)`), indexing by a mask, and copies to the host make an
accelerator finish all its work first. Seen are both what torch's dispatcher runs and what Python
calls, since a copy from a CPU to itself runs nothing.
"""

from collections import Counter

import pytest
import torch
from models import batch, tiny
from paired import paired
from tiny_training import DIVERGENCES, KEEPING, METHODS, rows, slowly, trained
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer

from nlp_adv import AdversarialTrainer, InnerPasses, LayerSite, objective, text_objective
from nlp_adv.methods import CAPO, CAT, LAT, PGD, TRADES, FreeLB, SomeRows, bare
from nlp_adv.perturbation import L2Ball, Memory
from nlp_adv.training.finiteness import NonFiniteAlarm

COPIES = (Tensor.cpu, Tensor.tolist, Tensor.numpy)
READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal")
# Methods that compare outputs can do without a loss: one look a step at whether there are labels.
LOOKS = DIVERGENCES
FEW = ("fgm", "pgd-rows", "freelb", "trades", "yopo", "freeat", "awp", "vat")
NAMED = ("freelb-reuse", "remembered-example")  # what an example consists of is read once a step
NAMES = [*FEW, *NAMED, *slowly(*sorted(set(METHODS) - {*FEW, *NAMED}))]


class Run(TorchDispatchMode):
    def __init__(self, found: Counter) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = args[1] if name in ("index", "index_put", "index_put_") else ()
        by_mask = any(one is not None and one.dtype == torch.bool for one in masks)
        self.found[name] += name in READS or by_mask
        return func(*args, **(kwargs or {}))


class Called(TorchFunctionMode):
    def __init__(self, found: Counter) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.found[getattr(func, "__name__", "")] += func in COPIES
        return func(*args, **(kwargs or {}))


def waits(do) -> Counter:
    """What was read or copied, and how often."""
    found: Counter = Counter()
    with Run(found), Called(found):
        do()
    return +found


class Looks(TorchDispatchMode):
    """Counts what looks for an inf or nan: in tensors of δ's shape, and in single numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, other = func.overloadpacket.__name__, args[1] if len(args) > 1 else None
        infinite = not isinstance(other, Tensor) and other == torch.inf
        # A largest value, or what torch.isfinite is made of.
        if name in ("isnan", "isinf") or (name in ("linalg_vector_norm", "ne") and infinite):
            one_a_row = args[0].shape[1:].numel() == 1  # a ball's own look, at its gradient
            self.found["delta"] += args[0].ndim == 3 and not one_a_row
            self.found["number"] += args[0].ndim < 2 and name != "linalg_vector_norm"
        return func(*args, **(kwargs or {}))


def passes(method) -> int:
    """Forward passes and looks at the clean point, whole or in part."""
    others = (getattr(method, name, 0) for name in ("forward_passes", "prefix_passes"))
    return 1 + method.passes + method.inner_passes + sum(others)


def test_what_waits_is_seen():
    x = torch.arange(4.0)
    assert waits(lambda: x.sum().item())["_local_scalar_dense"] == 1
    assert waits(lambda: bool(x.any()))["_local_scalar_dense"] == 1
    assert waits(lambda: x[x > 1])["index"] == 1
    assert waits(lambda: x.cpu())["cpu"] == 1
    assert waits(lambda: x.tolist())["tolist"] == 1
    assert not waits(lambda: x[torch.tensor([0, 2])].where(x[:2] > 1, 0.0))


@pytest.mark.parametrize("site", [None, LayerSite("bert.encoder.layer.0")], ids=["words", "layer"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_waits_no_more_than_its_passes_do(name, site):
    method, model, full, memory = METHODS[name], tiny("bert", dropout=0.1), batch("bert"), Memory()
    of_words = any(getattr(bare(method), one, False) for one in ("reads_table", "text_only"))
    if site is not None and of_words:
        pytest.skip("it needs the matrix of the words")

    def step() -> None:
        method.step(objective(model, full, site, seed=0, memory=memory))

    step()  # the first of a run looks for more
    memory.replay = 1
    allowed = waits(lambda: model(**full).loss.backward())
    found = waits(step)
    found["_local_scalar_dense"] -= name in LOOKS
    if name in NAMED:
        assert memory.tensors
        assert found.pop("cpu") == 1
        for of_the_host in ("index", "tolist", "_local_scalar_dense"):  # it lies there by then
            found.pop(of_the_host, None)
    assert +found <= Counter({key: passes(method) * value for key, value in allowed.items()})


STEPPED = {
    "pgd": lambda steps: PGD(L2Ball(0.5), 0.2, steps, random_start=False),
    "freelb": lambda steps: FreeLB(L2Ball(0.5), 0.2, steps),
    "trades": lambda steps: TRADES(L2Ball(0.5), 0.2, steps, beta=6.0, init_magnitude=0.2),
    "rows": lambda steps: SomeRows(PGD(L2Ball(0.5), 0.2, steps, clean_weight=0.5), 0.5),
}


@pytest.mark.parametrize("name", STEPPED)
def test_a_pass_is_looked_at_once_and_a_step_once_more(name):
    """For numbers that are none: ∇δ in each pass, the weights' gradients and all losses at the end.

    Several micro-batches lie above each other here, so that the first gradients are looked at too.
    """
    model, full = tiny("bert", dropout=0.1), batch("bert")
    model(**full).loss.backward()

    def looks(steps: int) -> Counter:
        method = STEPPED[name](steps)
        run = objective(model, full, seed=0, passes=method.passes)
        with Looks() as counted:
            method.step(run)
            assert not run.nonfinite
        return counted.found

    few, many = looks(2), looks(5)
    assert many["delta"] - few["delta"] == 3
    assert few["delta"] == {"freelb": 2, "trades": 2}.get(name, 3)
    assert few["number"] == many["number"] == 2  # of the weights before, and of all


def test_cheaper_passes_wait_no_more():
    model, full = tiny("bert", dropout=0.1).float(), batch("bert")
    method = InnerPasses(PGD(L2Ball(0.5), 0.2, 3), "bf16", dropout=False)
    method.step(objective(model, full, seed=0))
    found = waits(lambda: method.step(objective(model, full, seed=0)))
    allowed = waits(lambda: model(**full).loss.backward())
    assert found <= Counter({key: passes(method) * value for key, value in allowed.items()})


MORE = slowly(*sorted(set(METHODS) - {"pgd-rows", "freelb", *KEEPING}))


@pytest.mark.parametrize("name", ["pgd-rows", "freelb", *MORE])
def test_a_step_of_the_trainer_waits_no_more_than_the_stock_one(tmp_path, monkeypatch, name):
    """From the second step on; the loss is looked at where the Trainer looks at it too."""
    monkeypatch.setattr(NonFiniteAlarm, "may_wait", lambda self: False)
    method, given = METHODS[name], {"data": rows(16), "max_steps": 3}

    def counted(base, **more) -> list[Counter]:
        class Watching(base):
            def training_step(self, *args, **kwargs):
                found, step = [], super().training_step
                steps.append(waits(lambda: found.append(step(*args, **kwargs))))
                return found[0]

        steps: list[Counter] = []
        trained(tmp_path, Watching, model=tiny("bert"), **given, **more)
        assert len(steps) == 3
        return steps[1:]

    stock = counted(Trainer, adv="none")[0]
    for step in counted(AdversarialTrainer, options={"method": method}):
        step["_local_scalar_dense"] -= name in LOOKS
        assert +step <= Counter({key: passes(method) * value for key, value in stock.items()})


@pytest.mark.parametrize("kind", [CAT, CAPO, LAT])
def test_methods_that_read_completions_wait_no_more_for_more_steps(kind):
    """A step looks at its batch once: at the prompts, the groups and where their labels are."""
    model, before = tiny("gpt2_lm"), tiny("gpt2_lm").requires_grad_(False)

    def step(steps):
        method = kind(L2Ball(0.4, "token"), 0.1, steps)
        method.step(text_objective(model, paired(), seed=0, reference=before))

    step(1)  # the first look counts the calls of the loss
    few, many = (waits(lambda steps=steps: step(steps)) for steps in (2, 6))
    assert few == many
    assert few.total() < 40
