"""An attack at growing radii: the cheap ways give what separate attacks give, counted to a pass."""

import math
from dataclasses import replace

import pytest
import torch
from point_cases import CASES, Case, each_case

from nlp_adv.attacks import APGD, FGSM, Ladder, OptimizerAttack, ladder
from nlp_adv.attacks.ladder import at_radius
from nlp_adv.attacks.measured import Measured
from nlp_adv.attacks.subject import Subject
from nlp_adv.errors import UserError
from nlp_adv.perturbation import LInfBall
from nlp_adv.robustness import embedding_pgd
from nlp_adv.robustness.embedding import embedding_robustness

TEXT, PIXELS = CASES
COLUMNS = ("fooled", "answers", "gradient_passes", "forwards", "l0")
each_kind = pytest.mark.parametrize("kind", list(TEXT.attacks()))


class Counter:
    """Rows that a model was given, and those among them with a gradient to come."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.rows = self.gradients = 0
        model.register_forward_hook(self._count)

    def _count(self, module, args, output) -> None:
        logits = output["logits"] if isinstance(output, dict) else output
        self.rows += len(logits)
        self.gradients += len(logits) * logits.requires_grad


def beside_the_attack(case: Case) -> tuple[int, int]:
    """What is looked at to find out what the batches are: counted where nothing is attacked."""
    batches = []
    for batch in case.batches:
        x, y = (batch, batch["labels"]) if case is TEXT else batch
        logits = case.model()(**x)["logits"] if case is TEXT else case.model()(x)
        wrong = (logits.argmax(1) + 1) % logits.shape[1]
        batches.append({**batch, "labels": wrong} if case is TEXT else (x, wrong))
        assert len(y) == len(wrong)
    model = case.model()
    counter = Counter(model)
    idle = case.measured(ladder(case.pgd()), model, batches=batches)
    assert not idle.right.any()
    assert (idle.forwards == 1).all()
    return counter.rows - 30, counter.gradients


@each_case
@each_kind
def test_every_pass_is_counted(case, kind):
    """Against what the model was really given."""
    model = case.model()
    counter = Counter(model)
    steps = ladder(case.attacks()[kind], case.radii, restarts=2)
    found = case.measured(steps, model)
    rows, with_graph = beside_the_attack(case)
    assert int(found.forwards[:, -1].sum()) == counter.rows - rows
    wrong = ~found.right
    assert wrong.sum() >= 4
    assert (found.forwards[wrong] == 1).all()
    assert not found.gradient_passes[wrong].any()
    gradients = int(found.gradient_passes[:, -1].sum())
    assert gradients == found.passes
    assert (gradients > 0) == (kind != "noise")
    if kind != "deepfool":  # whose gradients share a pass, and whose last pass has none
        assert counter.gradients - with_graph == gradients


@each_case
@pytest.mark.parametrize("kind", ["pgd", "bim", "apgd"])
def test_ascending_radii_give_what_separate_attacks_give(case, kind):
    attack = case.attacks()[kind]
    found = case.measured(ladder(attack, case.radii[::-1]))
    assert found.radii == case.radii
    fooled, alone = torch.zeros(30, dtype=torch.bool), 0
    for place, epsilon in enumerate(case.radii):
        one = case.measured(ladder(at_radius(attack, epsilon)))
        # The ball of a radius holds the smaller ones: what was fooled there is fooled here.
        fooled |= one.fooled[:, 0]
        assert torch.equal(found.fooled[:, place], fooled)
        assert torch.equal(found.robust(epsilon), found.right & ~fooled)
        assert found.accuracy(epsilon) == found.robust(epsilon).double().mean()
        alone += one.passes
    assert 0 < found.passes < alone
    assert 0 < int(found.robust(case.radii[1]).sum()) < int(found.right.sum()) < 30
    assert found.accuracy() == 0


@each_case
def test_one_gradient_gives_what_separate_attacks_give(case):
    attack = case.attacks()["fgm"]
    found = case.measured(ladder(attack, case.radii))
    assert found.gradient_passes.tolist() == [[right] * 4 for right in found.right.long().tolist()]
    for place, epsilon in enumerate(case.radii):
        alone = case.measured(ladder(at_radius(attack, epsilon)))
        assert torch.equal(found.fooled[:, place], alone.fooled[:, 0])


@each_case
def test_the_smallest_delta_of_one_run_says_it_for_all_radii(case):
    attack = case.attacks()["deepfool"]
    found = case.measured(ladder(attack, case.radii))
    alone = case.measured(ladder(attack))
    assert alone.radii == (None,)
    assert alone.fooled[alone.right].all()
    assert math.isinf(alone.fooled_at.max())  # at no radius that has a number
    lengths = getattr(alone, attack.norm)[:, 0] / alone.unit_lengths
    for place, epsilon in enumerate(case.radii):
        assert torch.equal(found.fooled[:, place], alone.right & (lengths <= epsilon))
    assert 0 < int(found.fooled[:, 1].sum()) < int(found.fooled[:, 3].sum())
    smallest = found.smallest() * found.relative_lengths / found.unit_lengths
    assert torch.allclose(smallest[found.fooled[:, 3]], lengths[found.fooled[:, 3]])


def test_an_attack_without_a_ball_is_measured_by_its_length():
    attack = OptimizerAttack(torch.optim.Adam, lr=0.02, steps=10)
    found = PIXELS.measured(ladder(attack, [0.01, 100.0]))
    assert torch.equal(found.robust(0.01), found.right)
    assert not found.robust(100.0).any()


@each_case
def test_full_steps_are_cut_short_among_radii(case):
    short = case.measured(ladder(case.pgd(), case.radii))
    whole = case.measured(ladder(case.pgd(until_fooled=False), case.radii))
    for name in COLUMNS:
        assert torch.equal(getattr(whole, name), getattr(short, name))


@each_case
def test_what_is_robust_takes_all_passes_and_what_is_fooled_no_more(case):
    tiny = tuple(1e-7 * radius for radius in case.radii)
    found = case.measured(ladder(case.pgd(), tiny, restarts=2))
    assert not found.fooled.any()
    passes = [[2 * 6 * place for place in (1, 2, 3, 4)]] * int(found.right.sum())
    assert found.gradient_passes[found.right].tolist() == passes
    more = 2 * (6 + case.looks)
    forwards = [[1 + more * place for place in (1, 2, 3, 4)]] * int(found.right.sum())
    assert found.forwards[found.right].tolist() == forwards
    found = case.measured(ladder(case.pgd(), case.radii, restarts=2))
    for row in found.right.nonzero().flatten():
        place = int(found.fooled[row].long().argmax())
        for name in (*COLUMNS, "l2", "linf", "l1", "confidences", "last_losses"):
            values = getattr(found, name)[row, place:]
            assert (values == values[0]).all(), name
        forwards = found.forwards[row].tolist()
        steps = [after - before for before, after in zip([1, *forwards], forwards, strict=False)]
        assert steps[:place] == [more] * place
        assert 1 < steps[place] <= more


@each_case
def test_answers_confidences_and_norms_are_of_the_last_point(case):
    for batch in case.split(1, torch.tensor([1, 2, 3, 4, 5])):
        model, said, points = case.model(), [], []
        model.register_forward_hook(
            lambda module, args, output, said=said: said.append(
                output["logits"] if isinstance(output, dict) else output
            )
        )
        if case is TEXT:
            model.table.register_forward_hook(
                lambda module, args, output, points=points: points.append(output)
            )
        found = case.measured(ladder(case.pgd(), case.radii[1:2]), model, batches=[batch])
        last = said[-case.looks].detach()[0]
        assert found.answers[0, 0] == last.argmax()
        assert found.confidences[0, 0] == pytest.approx(float(last.softmax(0).max()))
        label = batch["labels"] if case is TEXT else batch[1]
        assert found.fooled[0, 0] == (last.argmax() != label[0])
        assert torch.allclose(found.logits[0], said[-1 if not found.right[0] else 0].detach()[0])
        norm = getattr(found, found.ladder.norm)[0, 0]
        assert 0 < norm <= case.radii[1] * found.unit_lengths[0] * (1 + 1e-9)


@pytest.mark.fault("E9")
@each_case
@pytest.mark.parametrize("size", [6, 1])
def test_batches_change_nothing(case, size):
    """Starts belong to the example, whatever else is in its batch."""
    steps = ladder(case.pgd(steps=2, step_size=case.radii[1]), restarts=3)
    whole = case.measured(steps, batches=case.split(24, count=24))
    some = case.measured(steps, batches=case.split(size, count=24))
    assert 0 < int(whole.fooled.sum()) < int(whole.right.sum())
    for name in COLUMNS:
        assert torch.equal(getattr(some, name), getattr(whole, name)), name
    assert torch.allclose(some.l2, whole.l2, rtol=0, atol=1e-9)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(5))
    if size > 1:
        mixed = case.measured(steps, batches=case.split(size, order))
        assert torch.equal(mixed.fooled, whole.fooled[order])


@each_case
def test_several_starts_fool_what_each_of_them_fools(case):
    """Those of a random attack have the seeds from its own on."""
    epsilon = 0.2 if case is TEXT else 0.12
    attack = case.pgd(ball=replace(case.ball, epsilon=epsilon), steps=1, seed=3)
    attack = replace(attack, step_size=epsilon / 2)
    several = case.measured(ladder(attack, restarts=3))
    fooled = torch.zeros(30, dtype=torch.bool)
    for seed in (3, 4, 5):
        fooled |= case.measured(ladder(replace(attack, seed=seed))).fooled[:, 0]
    assert torch.equal(several.fooled[:, 0], fooled)
    one = case.measured(ladder(attack))
    assert fooled.sum() > one.fooled.sum() > 0
    assert torch.equal(several.l2[one.fooled], one.l2[one.fooled])  # fooled by the first start
    assert several.gradient_passes[several.robust(epsilon)].eq(3).all()


@each_case
def test_a_start_from_the_clean_point_comes_first(case):
    attack = case.pgd(random_start=False, seed=3)
    assert ladder(attack, restarts=1).starts == (attack,)
    random = replace(attack, random_start=True)
    want = (attack, random, replace(random, seed=4))
    assert ladder(attack, restarts=3).starts == want
    for kind in ("fgm", "deepfool"):
        once = case.attacks()[kind]
        assert ladder(once, restarts=3).starts == (once,)


@each_case
def test_a_target_is_reached_or_the_example_is_robust(case):
    target = 0 if case is TEXT else 2
    batches = [
        {key: value[batch["labels"] != target] for key, value in batch.items()}
        if case is TEXT
        else (batch[0][batch[1] != target], batch[1][batch[1] != target])
        for batch in case.batches
    ]
    steps = ladder(case.pgd(), [0.0, *case.radii])
    found = case.measured(steps, target=target, batches=batches)
    assert torch.equal(found.robust(0.0), found.right)
    assert (found.answers[found.fooled] == target).all()
    assert (found.answers[found.right & ~found.fooled[:, -1], -1] != target).all()
    assert found.fooled[:, -1].any()


@each_case
def test_zero_is_the_accuracy_without_attack(case):
    found = case.measured(ladder(case.pgd(), [0.0, case.radii[3]]))
    assert found.accuracy(0.0) == found.accuracy(0) == found.clean_accuracy
    assert found.fooled_at[~found.right].eq(0).all()
    assert found.fooled_at[found.right].eq(case.radii[3]).all()
    assert not found.is_constant
    assert found.doubts == []


@each_case
@pytest.mark.parametrize("epsilon", [0.1, 0.7, 1 / 3])
def test_what_is_fooled_at_a_radius_is_not_robust_there(case, epsilon):
    """Whichever side of ε its neighbour in float32 lies."""
    found = case.measured(ladder(case.pgd(), [epsilon]))
    assert torch.equal(found.fooled_at <= epsilon, ~found.robust(epsilon))


def test_the_step_grows_with_the_radius():
    attack = PIXELS.pgd(step_size=0.01)
    larger = at_radius(attack, 0.09)
    assert larger == replace(attack, ball=LInfBall(0.09), step_size=0.01 * (0.09 / 0.045))
    assert at_radius(APGD(LInfBall(0.1)), 0.2) == APGD(LInfBall(0.2))
    assert at_radius(attack, 0.0).step_size == 0
    with pytest.raises(ValueError, match="no step to enlarge"):
        at_radius(replace(attack, ball=LInfBall(0.0)), 0.1)


@pytest.mark.fault("U3")
@pytest.mark.parametrize("radii", [[-0.1], [math.inf], [math.nan], [0.1, -0.1], [0.1, math.nan]])
def test_radii_are_finite_and_not_negative(radii):
    for made in (lambda: ladder(FGSM(0.1), radii), lambda: embedding_pgd(radii)):
        with pytest.raises(ValueError, match="radii must be finite and ≥ 0"):
            made()


@pytest.mark.fault("U3")
def test_one_radius_is_written_as_several():
    for made in (lambda: Ladder((FGSM(0.1),), 0.2), lambda: embedding_pgd(0.2)):
        with pytest.raises(ValueError, match=r"epsilons are several radii; write \(0.2,\)"):
            made()


@pytest.mark.parametrize("restarts", [0, -1])
def test_an_attack_starts_somewhere(restarts):
    with pytest.raises(ValueError, match="at least one start"):
        ladder(FGSM(0.1), restarts=restarts)
    with pytest.raises(ValueError, match="at least one start"):
        Ladder(())


@each_case
def test_nothing_to_attack_is_said(case):
    with pytest.raises(UserError, match="the data is empty"):
        Subject(case.model()).measure(ladder(case.pgd()), [])


@each_case
def test_nothing_is_left_behind(case):
    """Nor in the data; also where that fails half-way."""
    model = case.model().train()
    first = next(model.parameters())
    first.grad = torch.ones_like(first)
    first.requires_grad_(False)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    stream, batches = torch.get_rng_state(), case.batches

    def failing():
        yield batches[0]
        raise RuntimeError("no more")

    case.measured(ladder(case.pgd(), case.radii, restarts=2), model)
    with pytest.raises(RuntimeError, match="no more"):
        case.measured(ladder(case.pgd()), model, batches=failing())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not first.requires_grad
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(one.grad is None for one in list(model.parameters())[1:])
    assert torch.equal(torch.get_rng_state(), stream)
    for one, other in zip(batches, case.batches, strict=True):
        pairs = zip(
            *(part.values() if case is TEXT else part for part in (one, other)), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)


def test_parts_are_joined_in_the_order_of_the_data():
    steps = ladder(TEXT.pgd(), TEXT.radii)
    parts = [TEXT.measured(steps, batches=[batch]) for batch in TEXT.batches]
    joined, whole = Measured.joined(parts), TEXT.measured(steps)
    assert torch.equal(joined.fooled, whole.fooled)
    assert torch.equal(joined.logits, whole.logits)
    assert embedding_robustness(TEXT.model(), TEXT.batches, steps).passes == whole.passes
