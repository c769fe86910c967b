"""A gradient that is no number is counted, in whichever pass and tensor of a step it appears."""

import pytest
import torch
from models import LinearClassifier, batch, linear_objective, tiny
from tiny_training import METHODS, Watched, distance, logged, rows, slowly, trained, weights

from nlp_adv import text_objective
from nlp_adv.perturbation import Memory

pytestmark = pytest.mark.fault("D9")


class Overflowing(Watched):
    """Trains as fp16 does, on a CPU: losses are scaled, at first by far too much."""

    scale = 1e38

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        # What accelerate makes for fp16 on a GPU.
        scaler = torch.amp.GradScaler("cpu", init_scale=self.scale, growth_interval=10**6)
        self.accelerator.scaler = scaler


class Fitting(Overflowing):
    scale = 2.0**10


FEW = ("trades", "vat", "freelb", "awp")
each_slowly = pytest.mark.parametrize("name", [*FEW, *slowly(*sorted(set(METHODS) - set(FEW)))])


@each_slowly
def test_a_step_that_the_scaler_skips_is_counted(tmp_path, name):
    """float32 ends at 3.4e38: gradients above 3.4 overflow, and the weights stay."""
    model = tiny("bert").float()
    model.classifier.weight.data *= 50  # large enough gradients below it
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given = {"options": {"method": METHODS[name]}, "max_steps": 1}
    trainer = trained(tmp_path, Overflowing, model=model, **given)
    assert logged(trainer, "nonfinite_share") == [1]
    assert distance(weights(trainer), before) == 0


@each_slowly
def test_under_a_scale_that_fits_none_is_counted(tmp_path, name):
    given = {"options": {"method": METHODS[name]}, "max_steps": 2}
    trainer = trained(tmp_path, Fitting, model=tiny("bert").float(), **given)
    assert logged(trainer, "nonfinite_share") == [0, 0]


@pytest.mark.parametrize(
    ("name", "poison"), [("trades", torch.nan), *((name, torch.inf) for name in sorted(METHODS))]
)
def test_a_weights_gradient_alone_is_counted(name, poison):
    """The gradient at δ is finite, as when a sum over tokens overflows."""
    model = tiny("bert", dropout=0.1)
    objective = text_objective(model, batch("bert"), seed=0, memory=Memory())
    model.bert.pooler.dense.weight.register_hook(lambda grad: grad * poison)
    METHODS[name].step(objective)
    assert objective.nonfinite


def test_the_micro_batch_is_counted_in_which_it_happened(tmp_path):
    """Gradients of the later ones lie above it."""
    for broken in range(3):
        model, calls = tiny("bert"), []

        def spoil(grad, calls=calls, broken=broken):
            calls.append(1)
            return grad * torch.inf if len(calls) - 1 == broken else grad

        model.bert.pooler.dense.weight.register_hook(spoil)
        trainer = trained(
            tmp_path,
            Watched,
            model=model,
            data=rows(12),
            options={"method": METHODS["noise"]},
            max_steps=1,
            gradient_accumulation_steps=3,
            adv_nonfinite_steps=0,  # goes on with broken weights
        )
        assert logged(trainer, "nonfinite_share") == [pytest.approx(1 / 3)]


@pytest.mark.parametrize("declared", [True, False], ids=["passes", "no-passes"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_full_pass_of_trades_is_counted(declared, number):
    """The clean output's gradient and the moved one's: neither is asked for at δ."""
    method = METHODS["trades"]
    model = LinearClassifier((4, 6))
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    options = {"passes": method.passes} if declared else {}
    objective = linear_objective(model, x, torch.ones(3).double(), **options)
    run, calls = objective.run, []

    def spoiled(delta):
        output = run(delta)
        if delta is None or not delta.requires_grad:  # a pass that θ is trained on
            calls.append(1)
            if len(calls) - 1 == number:
                output.logits.register_hook(lambda grad: grad * torch.inf)
        return output

    objective.run = spoiled
    method.step(objective)
    assert len(calls) == 2
    assert objective.nonfinite


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["trades", "smart", "vat", "rdrop", "freelb", "pgd-clean", "awp"])
def test_fp16_on_a_gpu(tmp_path, name):
    """torch's scaler begins at 2¹⁶; what it skips is what is counted."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    model = tiny("bert").float()
    model.classifier.weight.data *= 100
    trainer = trained(
        tmp_path,
        Watched,
        model=model,
        options={"method": METHODS[name]},
        max_steps=8,
        fp16=True,
        use_cpu=False,
    )
    skipped = [any(not v.isfinite().all() for v in g.values()) for g in trainer.gradients]
    assert logged(trainer, "nonfinite_share") == [float(s) for s in skipped]
    assert any(skipped)
