"""Several calls of one module in a loss: a δ for each call with a graph, in order.

Each loss is trained by our methods and by a loop written here for lists of δ, in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from models import TOKENS, VOCAB, assert_gradients, batch, gradients, tiny
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid, mse_loss

from nlp_adv.errors import UserError
from nlp_adv.methods import FGM, PGD, YOPO, FreeLB, Scaled
from nlp_adv.perturbation import L2Ball, Memory, Output
from nlp_adv.sites.embeddings import EmbeddingError, EmbeddingSite, find_embedding
from nlp_adv.sites.layer import LayerSite
from nlp_adv.sites.objective import objective

pytestmark = pytest.mark.fault("T7")

EPSILON, STEP = 0.8, 0.3


# --- the losses


@dataclass(frozen=True)
class Case:
    """A loss that runs its model several times.

    Args:
        model: makes it, in training mode.
        batch: what the loss is of.
        loss: of model and batch.
        masks: (B, T) of each call with a graph, in order.
    """

    model: Callable[[], nn.Module]
    batch: dict[str, Tensor]
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    masks: tuple[Tensor, ...]


def texts(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask of sentences of unlike length."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, VOCAB, (rows, width), generator=generator)
    lengths = torch.randint(2, width + 1, (rows, 1), generator=generator)
    lengths[0] = width
    mask = (torch.arange(width) < lengths).long()
    return ids * mask, mask


def named(**columns: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Columns as bi-encoders have them: anchor_input_ids, anchor_attention_mask, …"""
    found = {}
    for name, (ids, mask) in columns.items():
        found |= {f"{name}_input_ids": ids, f"{name}_attention_mask": mask}
    return found


def column(given: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: given[f"{name}_{key}"] for key in ("input_ids", "attention_mask")}


def pooled(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
    return model.bert(**given).last_hidden_state[:, 0]


def contrast(queries: Tensor, keys: Tensor) -> Tensor:
    """In-batch negatives: the i-th key belongs to the i-th query."""
    similar = nn.functional.cosine_similarity(queries[:, None], keys[None], dim=-1)
    return cross_entropy(5.0 * similar, torch.arange(len(queries)))


def simcse(model, given):
    return contrast(pooled(model, given), pooled(model, given))


def siamese(model, given):
    one, two = (pooled(model, column(given, name)) for name in ("a", "b"))
    score = model.classifier(one * two)
    return cross_entropy(score, given["labels"])


def bi_encoder(model, given):
    anchor, positive, negative = (
        pooled(model, column(given, name)) for name in ("anchor", "positive", "negative")
    )
    return contrast(anchor, torch.cat([positive, negative]))


def self_distillation(model, given):
    """The teacher is the model itself, without a graph, once before and once after the student."""
    with torch.no_grad():
        before = model(**given).logits
    student = model(**given).logits
    with torch.no_grad():
        after = model(**given).logits
    return mse_loss(student, 0.5 * (before + after)) + student.square().mean()


def r_drop(model, given):
    plain = {key: value for key, value in given.items() if key != "labels"}
    one, two = (model(**plain).logits.log_softmax(-1) for _ in range(2))
    apart = (one.exp() * (one - two)).sum(-1) + (two.exp() * (two - one)).sum(-1)
    labels = given["labels"]
    hard = nn.functional.nll_loss(one, labels) + nn.functional.nll_loss(two, labels)
    return 0.5 * hard + apart.mean()


def log_probability(model, given):
    logp = model(**given).logits[:, :-1].log_softmax(-1)
    picked = logp.gather(-1, given["input_ids"][:, 1:, None])[..., 0]
    return (picked * given["attention_mask"][:, 1:]).sum(1)


def margin(model, given):
    chosen, rejected = (log_probability(model, column(given, name)) for name in ("good", "bad"))
    return chosen - rejected


def dpo_live(model, given):
    """The reference is another model, which shares no module."""
    with torch.no_grad():
        kept = margin(model.reference[0], given)
    return -logsigmoid(0.3 * (margin(model, given) - kept)).mean()


def dpo_adapter_off(model, given):
    with torch.no_grad(), model.disable_adapter():
        kept = margin(model, given)
    return -logsigmoid(0.3 * (margin(model, given) - kept)).mean()


def bert() -> nn.Module:
    return tiny("bert", dropout=0.1)


def policy() -> nn.Module:
    model, reference = tiny("gpt2_lm"), tiny("gpt2_lm")
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(0.9)
    model.reference = (reference,)  # in a tuple it is none of its modules
    return model


def with_adapter() -> nn.Module:
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], init_lora_weights=False
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return peft.get_peft_model(tiny("gpt2_lm"), lora).double().train()


def _cases() -> dict[str, Case]:
    a, b, two = texts(3, 6, 2), texts(3, 4, 3), texts(6, 5, 4)
    one = {"input_ids": a[0], "attention_mask": a[1]}
    labels = {"labels": torch.tensor([0, 1, 1])}
    pairs = named(good=a, bad=b)
    return {
        "simcse": Case(bert, one, simcse, (a[1], a[1])),
        "siamese": Case(bert, named(a=a, b=b) | labels, siamese, (a[1], b[1])),
        "bi-encoder": Case(
            bert, named(anchor=a, positive=b, negative=two), bi_encoder, (a[1], b[1], two[1])
        ),
        "self-distillation": Case(bert, one, self_distillation, (a[1],)),
        "r-drop": Case(bert, one | labels, r_drop, (a[1], a[1])),
        "dpo-live": Case(policy, pairs, dpo_live, (a[1], b[1])),
        "dpo-adapter-off": Case(with_adapter, pairs, dpo_adapter_off, (a[1], b[1])),
    }


CASES = _cases()


# --- the loop


class Added:
    """Adds the k-th of a list of δ to what the module returns at its k-th call with a graph."""

    def __init__(self, module: nn.Module) -> None:
        self.deltas: list[Tensor] = []
        self.seen: list[Tensor] = []
        self.handle = module.register_forward_hook(self._hook)

    def _hook(self, module, args, output):
        if not torch.is_grad_enabled():
            return None
        self.seen.append(output.detach())
        return output + self.deltas[len(self.seen) - 1] if self.deltas else None


class Naive:
    """The methods on a list of δ, one for each call, from δ = 0."""

    def __init__(self, case: Case, *, relative: bool) -> None:
        self.model, self.case = case.model(), case
        self.added = Added(find_embedding(self.model))
        self.state = torch.get_rng_state()
        self.run([])
        self.masks = [mask.double()[..., None] for mask in case.masks]
        assert len(self.added.seen) == len(self.masks)
        self.units = [
            (x * mask).square().sum((1, 2), keepdim=True).sqrt() if relative else 1.0
            for x, mask in zip(self.added.seen, self.masks, strict=True)
        ]
        self.zero = [torch.zeros_like(x) for x in self.added.seen]

    def run(self, deltas: list[Tensor]) -> Tensor:
        torch.set_rng_state(self.state)
        self.added.deltas, self.added.seen = deltas, []
        return self.case.loss(self.model, self.case.batch)

    def gradient(self, deltas: list[Tensor]) -> list[Tensor]:
        leaves = [delta.requires_grad_() for delta in deltas]
        return list(torch.autograd.grad(self.run(leaves), leaves))

    def moved(self, deltas: list[Tensor], grads: list[Tensor], step: float) -> list[Tensor]:
        found = []
        for delta, grad, mask, unit in zip(deltas, grads, self.masks, self.units, strict=True):
            grad = grad * mask
            # A unit stretches both the step and the radius; the direction stays.
            delta = delta + step * unit * grad / grad.norm(dim=(1, 2), keepdim=True)
            norm = delta.norm(dim=(1, 2), keepdim=True)
            found.append((delta * (EPSILON * unit / norm).clamp(max=1.0)).detach())
        return found

    def freelb(self) -> None:
        deltas = self.zero
        for _ in range(3):
            leaves = [delta.clone().requires_grad_() for delta in deltas]
            (self.run(leaves) / 3).backward()
            deltas = self.moved(deltas, [leaf.grad for leaf in leaves], STEP)

    def pgd(self) -> None:
        deltas = self.zero
        for _ in range(3):
            deltas = self.moved(deltas, self.gradient(deltas), STEP)
        self.run(deltas).backward()

    def fgm(self) -> None:
        deltas = self.moved(self.zero, self.gradient(self.zero), EPSILON)
        (0.5 * self.run([])).backward()
        (0.5 * self.run(deltas)).backward()


METHODS = {
    "freelb": FreeLB(L2Ball(EPSILON), step_size=STEP, steps=3),
    "pgd": PGD(L2Ball(EPSILON), step_size=STEP, steps=3, random_start=False),
    "fgm": FGM(L2Ball(EPSILON), clean_weight=0.5),
}


peft_warns = pytest.mark.filterwarnings(
    "ignore:fan_in_fan_out:UserWarning",
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning",
)


def as_forward(loss):
    def forward(model, given):
        return Output(loss(model, given), None)

    return forward


def of(case: Case, model: nn.Module, **options):
    return objective(model, case.batch, forward=as_forward(case.loss), seed=0, **options)


@peft_warns
@pytest.mark.parametrize("method", [*METHODS, "freelb-relative"])
@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_a_loop_over_lists_of_deltas(name, method):
    case, (method, *unit) = CASES[name], method.split("-")
    relative = bool(unit)
    torch.manual_seed(5)
    naive = Naive(case, relative=relative)
    getattr(naive, method)()
    want = gradients(naive.model)

    model = case.model()
    torch.set_rng_state(naive.state)
    ours = METHODS[method]
    (Scaled(ours, unit="relative") if relative else ours).step(of(case, model))
    assert_gradients(gradients(model), want, atol=1e-12)
    assert max(float(value.abs().max()) for value in want.values()) > 1e-3


@peft_warns
@pytest.mark.parametrize("name", CASES)
def test_each_call_has_a_mask_a_ball_and_a_unit_of_its_own(name):
    case = CASES[name]
    minibatch = of(case, case.model())
    widths = [mask.shape[1] for mask in case.masks]
    for mask, free in zip(case.masks, minibatch.mask.split(widths, dim=1), strict=True):
        assert torch.equal(free[: len(mask), :, 0], mask.double())
        assert not free[len(mask) :].any()  # another call has more rows
    ball = minibatch.within(L2Ball(EPSILON))
    start = ball.sample(minibatch.mask, minibatch.generator)
    lengths = [own.norm(dim=(1, 2)) for own in start.split(widths, dim=1)]
    for mask, length in zip(case.masks, lengths, strict=True):
        assert ((length[: len(mask)] > 0) & (length[: len(mask)] <= EPSILON)).all()


def test_a_layer_that_the_model_runs_twice():
    """ALBERT runs one layer again and again."""
    site = LayerSite("albert.encoder.albert_layer_groups.0.albert_layers.0")
    model, given = tiny("albert"), batch("albert")
    minibatch = objective(model, given, site, seed=0)
    noise = torch.randn(minibatch.mask.shape, dtype=torch.float64) * minibatch.mask
    first, second = noise.split(TOKENS, dim=1)

    want = tiny("albert")
    added = Added(want.albert.encoder.albert_layer_groups[0].albert_layers[0])
    added.deltas = [first, second]
    torch.testing.assert_close(minibatch.forward(noise).loss, want(**given).loss)


# --- how the calls are counted


class Counted(nn.Module):
    """A classifier of one look-up a call, which counts its passes beyond the look-up."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head, self.passes = nn.Embedding(VOCAB, 4), nn.Linear(4, 2), 0
        self.double()

    def forward(self, input_ids):
        hidden = self.words(input_ids)
        self.passes += 1
        return self.head(hidden.tanh().mean(1))


def running(times, *, then=None):
    """A loss that runs its model so often; a pass with a δ as often as `then`."""

    def forward(model, given):
        perturbed = then is not None and any(tap.deltas for tap in TAPS)
        logits = [model(given["input_ids"]) for _ in range(then if perturbed else times)]
        return Output(cross_entropy(sum(logits), given["labels"]), None)

    return forward


TAPS: list = []
SMALL = {"input_ids": torch.tensor([[3, 4, 5], [6, 7, 8]]), "labels": torch.tensor([0, 1])}


@pytest.mark.parametrize(("times", "looks"), [(1, 0), (2, 1), (3, 2)])
def test_calls_are_counted_once_in_a_whole_pass(times, looks):
    """A look at later minibatches ends in the last look-up: no whole pass where there is one."""
    model, method, forward = Counted(), METHODS["freelb"], running(times)
    site = EmbeddingSite("words")

    def step():
        model.passes = 0
        method.step(objective(model, SMALL, site, forward=forward, seed=0))
        return model.passes

    assert step() == times * (method.passes + 1)
    assert step() == times * method.passes + looks
    assert step() == times * method.passes + looks


def test_of_one_call_the_rows_do_not_matter_and_of_several_they_do():
    """A loss may go through its batch in pieces of so many rows."""

    def forward(model, given):
        pieces = zip(given["input_ids"].split(2), given["labels"].split(2), strict=True)
        return Output(sum(cross_entropy(model(ids), labels) for ids, labels in pieces), None)

    large = {key: torch.cat([value] * 2) for key, value in SMALL.items()}
    model, site = Counted(), EmbeddingSite("words")
    for given, calls in ((SMALL, 1), (large, 2), (SMALL, 1), (large, 2)):
        minibatch = objective(model, given, site, forward=forward, seed=0)
        assert minibatch.mask.shape == (2, 3 * calls, 4)
        minibatch.gradient(torch.zeros_like(minibatch.mask))


@pytest.mark.parametrize(("times", "then"), [(1, 2), (2, 1), (2, 3)])
def test_a_pass_of_another_number_of_calls_is_one_sentence(times, then):
    model, site = Counted(), EmbeddingSite("words")
    TAPS[:] = site.taps(model)
    minibatch = objective(model, SMALL, site, forward=running(times, then=then), seed=0)
    said = rf"ran {then} times with a graph in one loss and {times} times when this minibatch"
    with pytest.raises(EmbeddingError, match=said) as caught:
        minibatch.forward(torch.zeros_like(minibatch.mask))
    assert str(caught.value).count(". ") == 0
    assert not model.words._forward_hooks


def test_a_run_counts_anew():
    """The same model, under a loss that runs it as often as another run's did not."""
    model, site = Counted(), EmbeddingSite("words")
    forward = running(1)
    objective(model, SMALL, site, forward=forward, seed=0)
    site.install(model)
    minibatch = objective(model, SMALL, site, forward=running(2), seed=0)
    site.remove()
    assert minibatch.mask.shape == (2, 6, 4)


def test_names_of_examples_tell_the_calls_apart():
    case = CASES["simcse"]
    names = of(case, case.model()).example_names()
    assert len(names) == len(set(names)) == 6
    method = FreeLB(L2Ball(EPSILON), STEP, 2, init_magnitude=0.5, reuse=True)
    memory, model = Memory(), case.model()
    for _ in range(2):
        torch.manual_seed(0)
        method.step(of(case, model, memory=memory))
    kept = {f"{what}/{name}" for name in names for what in ("delta", "free")}
    assert set(memory.tensors) == kept


# --- methods that need one call


def test_yopo_refuses_several_calls():
    case = CASES["siamese"]
    with pytest.raises(UserError, match="several times: take another method"):
        YOPO(L2Ball(0.5), 0.2, 2, 2).step(of(case, case.model()))


def test_gradients_computed_without_a_graph_are_refused():
    """Gradient caching runs the model again in the backward pass, where there is no δ."""
    model = Counted()

    def cached(model, given):
        with torch.no_grad():
            logits = model(given["input_ids"])
        return Output(cross_entropy(logits.requires_grad_(), given["labels"]), None)

    minibatch = objective(model, SMALL, EmbeddingSite("words"), forward=cached, seed=0)
    with pytest.raises(EmbeddingError, match="gradient caching") as caught:
        METHODS["pgd"].step(minibatch)
    assert str(caught.value).count(". ") == 0


@pytest.mark.parametrize("rows", [3, 2])
def test_each_call_has_the_mask_that_the_model_is_called_with(rows):
    """The batch has the mask of one text alone, and no id of the other is padding."""
    model, given = tiny("bert"), batch("bert")
    ids = torch.full((rows, TOKENS), 5)
    mask = (torch.arange(TOKENS) < 2).long().repeat(rows, 1)

    def forward(model, given):
        first = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
        second = model(input_ids=given["ids"], attention_mask=given["mask"])
        return Output(first.logits.sum() + second.logits.sum(), None)

    found = objective(model, given | {"ids": ids, "mask": mask}, forward=forward).mask[..., 0]
    assert torch.equal(found[:, :TOKENS], given["attention_mask"].to(found))
    assert torch.equal(found[:rows, TOKENS:], mask.to(found))
    assert not found[rows:, TOKENS:].any()


def test_yopo_passes_by_a_look_without_a_graph():
    """A teacher's pass, of which the first block's share is none of the student's."""
    model, given = tiny("bert"), batch("bert")

    def distilled(model, given):
        with torch.no_grad():
            taught = model(**given).logits
        found = model(**given)
        return Output(found.loss + 0 * (found.logits - taught).sum(), found.logits)

    def plain(model, given):
        found = model(**given)
        return Output(found.loss, found.logits)

    method, grads = YOPO(L2Ball(EPSILON), STEP, rounds=2, steps=2), []
    for forward in (distilled, plain):
        model.zero_grad()
        method.step(objective(model, given, forward=forward, seed=0))
        grads.append(gradients(model))
    assert_gradients(*grads)
