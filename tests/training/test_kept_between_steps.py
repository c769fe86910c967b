"""What methods keep from step to step: when it is forgotten, in which unit and precision it is."""

import pytest
import torch
from models import assert_gradients, batch, gradients, tiny
from tiny_training import METHODS, l2, logged, rows, trained
from torch import Tensor

from nlp_adv import AdversarialTrainer, text_objective
from nlp_adv.methods import SMART, TAVAT, FreeAT, FreeLB, Scaled
from nlp_adv.perturbation import L2Ball, LInfBall, Memory, unit_length


@pytest.mark.fault("M1")
@pytest.mark.parametrize(
    "method",
    [METHODS["freelb-reuse"], METHODS["tavat"], FreeAT(l2, 0.3, replays=2, carry=True)],
    ids=lambda method: method.name,
)
def test_a_second_run_of_one_trainer_starts_with_nothing_kept(tmp_path, method):
    """The weights stand still, so that a δ left over would be the only difference."""
    given = {"options": {"method": method}, "data": rows(8, padded=False), "learning_rate": 0}
    trainer = trained(tmp_path, model=tiny("bert"), **given)
    first = {key: logged(trainer, key) for key in ("adv_loss", "delta_norm")}
    trainer.train()
    assert {key: logged(trainer, key) for key in first} == first


def sentence(*words: int) -> dict[str, Tensor]:
    ids = torch.tensor([words])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.tensor([1]),
    }


WORD = 9


def with_unequal_words():
    model = tiny("bert")
    with torch.no_grad():  # a sentence of these has another unit of length
        model.bert.embeddings.word_embeddings.weight[40:] *= 5
    return model


@pytest.mark.fault("M2")
@pytest.mark.parametrize("unit", ["relative", "per_coordinate"])
def test_tavats_table_holds_absolute_lengths(unit):
    """A word takes its η along into a sentence whose unit is another."""
    lengths = {"ball": 0.3, "step_size": 0.2}
    models, memories = [with_unequal_words() for _ in range(2)], [Memory(), Memory()]
    units = []
    for words in ((WORD, 5, 6), (41, WORD, 42, 43, 44), (WORD, 7)):
        full = sentence(*words)
        ball = L2Ball(lengths["ball"])
        scaled = Scaled(TAVAT(ball, lengths["step_size"], 2), unit=unit)
        scaled.step(text_objective(models[0], full, seed=0, memory=memories[0]))
        objective = text_objective(models[1], full, seed=0, memory=memories[1])
        length = float(unit_length(objective, ball, unit))
        units.append(length)
        absolute = TAVAT(L2Ball(lengths["ball"] * length), lengths["step_size"] * length, 2)
        absolute.step(objective)
        assert_gradients(*map(gradients, models))
        torch.testing.assert_close(*(memory.tensors["tavat/table"] for memory in memories))
    assert max(units) > 1.2 * min(units)


@pytest.mark.fault("M2")
@pytest.mark.parametrize("poison", [0.0, torch.nan, torch.inf])
def test_a_word_without_a_usable_gradient_keeps_its_eta(poison):
    method, memory, model = TAVAT(L2Ball(100.0), 0.2, 2), Memory(), tiny("bert")
    full = sentence(WORD, 5, 6)
    method.step(text_objective(model, full, seed=0, memory=memory))
    before = memory.tensors["tavat/table"].clone()
    assert before[WORD].any()
    objective = text_objective(model, full, seed=0, memory=memory)
    run, factor = objective.run, torch.ones_like(objective.mask)
    factor[0, 0] = poison

    def spoiled(delta):
        if delta is not None and delta.requires_grad:
            delta.register_hook(lambda grad: grad * factor)
        return run(delta)

    objective.run = spoiled
    method.step(objective)
    after = memory.tensors["tavat/table"]
    assert torch.equal(after[WORD], before[WORD])
    if poison == 0:  # else the sentence's own gradient is not finite either; each η has its own
        assert not torch.equal(after[5], before[5])


@pytest.mark.fault("M3")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_smarts_average_creeps_in_float32(dtype):
    """A hundredth of a small step is below what half precision can add: the closed form."""
    model, memory = tiny("bert").to(dtype), Memory()
    method = SMART(LInfBall(0.1), 0.05, 1, 1.0, 0.2, proximal_weight=1.0, decay=0.99)

    def step():
        method.step(text_objective(model, batch("bert"), seed=0, memory=memory))

    step()
    start = {name: p.detach().float().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0625)
    count = 4
    for _ in range(count):
        step()
    for name, parameter in model.named_parameters():
        kept, end = memory.tensors[f"average/{name}"], parameter.detach().float()
        assert kept.dtype == torch.float32
        want = end + 0.99**count * (start[name] - end)
        torch.testing.assert_close(kept, want, rtol=1e-5, atol=1e-7)


class SometimesZero(AdversarialTrainer):
    """Some micro-batches have a loss of exactly 0."""

    zero: tuple[int, ...] = ()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training and torch.is_grad_enabled():
            self.seen = getattr(self, "seen", [])
            loss = loss * 0 if len(self.seen) in self.zero else loss
            self.seen.append(float(loss.detach()))
        return (loss, outputs) if return_outputs else loss


@pytest.mark.fault("M4")
@pytest.mark.parametrize("zero", [(0,), (1,), (0, 1)], ids=["first", "second", "both"])
def test_a_loss_of_zero_is_logged_with_the_scale_of_the_others(tmp_path, zero):
    """What the Trainer multiplies a loss by cannot be read off one that is 0."""
    trainer = trained(
        tmp_path,
        type("Zero", (SometimesZero,), {"zero": zero}),
        model=tiny("bert"),
        options={"method": METHODS["noise"]},
        max_steps=1,
        gradient_accumulation_steps=2,
        adv_mend_loss_scaling=True,
    )
    (loss,), (adversarial,) = logged(trainer, "loss"), logged(trainer, "adv_loss")
    assert [i for i, value in enumerate(trainer.seen) if value == 0] == list(zero)
    want = sum(trainer.seen) / 2
    assert loss == pytest.approx(want, rel=1e-6, abs=1e-9)
    assert adversarial == pytest.approx(want, rel=1e-6, abs=1e-9)
    assert logged(trainer, "nonfinite_share") == [0]


@pytest.mark.fault("M5")
@pytest.mark.parametrize("ball", [L2Ball(0.2), LInfBall(0.02)], ids=["l2", "linf"])
def test_a_delta_of_an_earlier_epoch_is_projected_into_the_ball_of_this_one(ball):
    """A warm-up's ramp, or another scale of the embeddings, makes the ball another one."""
    model, full, memory = tiny("bert"), batch("bert"), Memory()
    wide = FreeLB(L2Ball(5.0), step_size=2.0, steps=2, reuse=True)
    first = text_objective(model, full, seed=0, memory=memory)
    wide.step(first)
    kept = memory.recall(first.example_names(), torch.zeros_like(first.mask), first.mask)
    assert (ball.norm(kept) > 2 * ball.epsilon).all()
    objective = text_objective(model, full, seed=0, memory=memory)
    run, seen = objective.run, []
    objective.run = lambda delta: (seen.append(delta.detach().clone()), run(delta))[1]
    FreeLB(ball, step_size=0.01, steps=2, reuse=True).step(objective)
    torch.testing.assert_close(seen[0], ball.project(kept))
    assert all((ball.norm(delta) <= ball.epsilon * (1 + 1e-9)).all() for delta in seen)
