"""Accuracy under attack on the embeddings: closed-form radii, what moves, and what is refused."""

import math

import pytest
import torch
from models import batch, tiny
from small_texts import (
    SPECIAL,
    WIDTH,
    FlatAtZero,
    TextModel,
    answered,
    attacked,
    sentences,
    smallest_above,
    split,
    true_radii,
)
from torch import Tensor, nn

from nlp_adv.errors import UserError
from nlp_adv.perturbation import BALLS
from nlp_adv.robustness import embedding_pgd

GRID = tuple(float(e) for e in torch.logspace(-2.5, 1, 15, dtype=torch.float64))
RADII = (0.05, 0.1, 0.2, 0.8)


@pytest.fixture(scope="module")
def bert_rows() -> dict[str, Tensor]:
    """Twelve rows that tiny BERT gets right and two that it gets wrong."""
    return answered(tiny("bert").eval(), sentences(14, columns=8), wrong=2)


class TestClosedForm:
    @pytest.mark.parametrize("per", ["example", "token"])
    @pytest.mark.parametrize("norm", list(BALLS))
    def test_an_example_is_fooled_at_the_smallest_radius_above_its_own(self, norm, per):
        model = TextModel(mean=per == "token")
        data = answered(model, sentences(40))
        attack = embedding_pgd(GRID, 3, norm=norm, per=per, unit="absolute")
        want = smallest_above(true_radii(model, data, norm, per), GRID)
        assert len(want.unique()) > 4
        assert torch.equal(attacked(model, data, attack).fooled_at, want)

    @pytest.mark.parametrize(
        ("steps", "loss"), [(1, "margin"), (7, "margin"), (2, "cross_entropy")]
    )
    def test_any_number_of_steps_reaches_the_sphere_on_any_loss(self, steps, loss):
        model = TextModel()
        data = answered(model, sentences(30))
        attack = embedding_pgd(GRID, steps, unit="absolute", loss=loss)
        want = smallest_above(true_radii(model, data, "l2", "example"), GRID)
        assert torch.equal(attacked(model, data, attack).fooled_at, want)

    @pytest.mark.parametrize("norm", list(BALLS))
    def test_relative_radii_are_shares_of_the_embedding_norm(self, norm):
        model = TextModel()
        data = answered(model, sentences(40))
        rms, count = root_mean_square(model, data)
        unit = rms * {"l2": count.sqrt(), "linf": 1.0, "l1": count}[norm]
        want = smallest_above(true_radii(model, data, norm, "example") / unit, GRID)
        assert len(want.unique()) > 4
        found = attacked(model, data, embedding_pgd(GRID, 3, norm=norm))
        assert torch.equal(found.fooled_at, want)

    @pytest.mark.parametrize("norm", list(BALLS))
    def test_with_several_classes_nothing_is_fooled_inside_its_radius(self, norm):
        model = TextModel(classes=4)
        data = answered(model, sentences(40))
        found = attacked(model, data, embedding_pgd(GRID, 10, norm=norm, unit="absolute"))
        assert (found.fooled_at >= true_radii(model, data, norm, "example")).all()
        # Where the nearest border is also that of the second-best answer, ascent takes it.
        assert found.fooled_at.isfinite().double().mean() > 0.9

    def test_special_tokens_that_stay_leave_a_larger_radius(self):
        model, data = TextModel(), sentences(30)
        data["input_ids"][:, 0] = SPECIAL
        data = answered(model, data)
        tokens = data["attention_mask"].sum(1).double()
        radii = true_radii(model, data, "l2", "example") * (tokens / (tokens - 1)).sqrt()
        attack = embedding_pgd(GRID, 3, unit="absolute")
        found = attacked(model, data, attack, special_ids=[SPECIAL])
        assert torch.equal(found.fooled_at, smallest_above(radii, GRID))

    def test_a_named_module_is_the_one_that_is_attacked(self):
        model = TextModel()
        model.get_input_embeddings = lambda: None
        data = answered(model, sentences(6))
        attack = embedding_pgd(GRID, 3, unit="absolute")
        with pytest.raises(UserError, match="embedding"):
            attacked(model, data, attack)
        want = smallest_above(true_radii(model, data, "l2", "example"), GRID)
        assert torch.equal(attacked(model, data, attack, embedding="table").fooled_at, want)

    @pytest.mark.parametrize("per", ["example", "token"])
    @pytest.mark.parametrize("norm", list(BALLS))
    def test_lengths_translate_radii(self, norm, per):
        model = TextModel()
        data = answered(model, sentences(10))
        rms, count = root_mean_square(model, data)
        size = torch.full_like(rms, WIDTH) if per == "token" else count
        factor = {"l2": size.sqrt(), "linf": torch.ones_like(rms), "l1": size}[norm]

        def found(unit: str):
            return attacked(model, data, embedding_pgd((0.01,), 1, norm=norm, per=per, unit=unit))

        one, two, three = found("relative"), found("absolute"), found("per_coordinate")
        assert one.relative(0.01) == pytest.approx(0.01)
        assert one.absolute(0.01) == pytest.approx(0.01 * float((rms * factor).mean()))
        assert two.absolute(0.01) == pytest.approx(0.01)
        assert two.relative(0.01) == pytest.approx(0.01 * float((1 / (rms * factor)).mean()))
        assert three.absolute(0.01) == pytest.approx(0.01 * float(factor.mean()))
        assert one.erasing == pytest.approx(1.0)


def root_mean_square(model: TextModel, data: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Of each example's coordinates without padding, and how many there are."""
    embedded = model.table(data["input_ids"]).detach() * data["attention_mask"][..., None]
    count = data["attention_mask"].sum(1).double() * WIDTH
    return embedded.square().sum((1, 2)).div(count).sqrt(), count


class TestBert:
    def test_a_transcription_with_autograd_fools_the_same(self):
        """δ ← Π(δ + 2ε·(1 − k/K)·g/‖g‖), g that of −log softmax over three classes, row by row."""
        model, epsilon, steps = three_classes(), 0.3, 4
        data = answered(model, sentences(10, columns=7))

        def fooled(row: dict[str, Tensor]) -> bool:
            attention = row["attention_mask"]
            clean = model.get_input_embeddings()(row["input_ids"]).detach()
            delta = torch.zeros_like(clean)
            for step in range(steps + 1):
                delta.requires_grad_()
                at = clean + delta * attention[..., None]
                logits = model(inputs_embeds=at, attention_mask=attention)["logits"]
                if logits.argmax() != row["labels"] or step == steps:
                    return bool(logits.argmax() != row["labels"])
                loss = -logits.log_softmax(-1)[0, row["labels"]].sum()
                (grad,) = torch.autograd.grad(loss, delta)
                length = 2 * epsilon * (1 - step / steps)
                delta = (delta + length * grad / grad.norm()).detach()
                delta = delta * min(1.0, epsilon / float(delta.norm()))
            raise AssertionError

        want = [fooled(row) for row in split(data, 1)]
        assert 2 < sum(want) < 8
        attack = embedding_pgd((epsilon,), steps, unit="absolute", loss="cross_entropy")
        found = attacked(model, split(data, 4), attack)
        assert found.fooled[:, 0].tolist() == want
        logits = model(**data)["logits"].detach()
        assert torch.allclose(found.logits, logits)
        assert torch.allclose(found.clean_confidences, logits.softmax(-1).amax(-1))
        assert torch.equal(found.predictions, logits.argmax(-1))
        assert torch.equal(found.tokens, data["attention_mask"].sum(1))

    def test_padding_changes_nothing(self, bert_rows):
        model, attack = tiny("bert").eval(), embedding_pgd(RADII, 5, restarts=2)
        longer = {
            key: nn.functional.pad(value, (0, 3)) if value.ndim == 2 else value
            for key, value in bert_rows.items()
        }
        want = attacked(model, bert_rows, attack).fooled_at
        assert len(want.unique()) > 2
        assert torch.equal(attacked(model, longer, attack).fooled_at, want)

    @pytest.mark.parametrize("scale", [30, 0.01])
    def test_the_scale_of_the_logits_changes_nothing(self, bert_rows, scale):
        model, attack = tiny("bert").eval(), embedding_pgd(RADII, 5)
        want = attacked(model, bert_rows, attack).fooled_at
        for parameter in model.classifier.parameters():
            parameter.data.mul_(scale)
        assert torch.equal(attacked(model, bert_rows, attack).fooled_at, want)

    def test_saturated_float32_logits_hide_nothing(self, bert_rows):
        """A softmax of these logits is exactly 1 and has no gradient."""
        model, attack = tiny("bert").eval().float(), embedding_pgd(RADII, 5)
        want = attacked(model, bert_rows, attack)
        for parameter in model.classifier.parameters():
            parameter.data.mul_(1e6)
        got = attacked(model, bert_rows, attack)
        assert want.accuracy(0.8) < want.clean_accuracy - 0.3
        assert [got.accuracy(e) for e in RADII] == pytest.approx(
            [want.accuracy(e) for e in RADII], abs=1.5 / 14
        )

    def test_dropout_is_off_during_the_attack_only(self, bert_rows):
        model, attack = tiny("bert", dropout=0.5), embedding_pgd(RADII, 3)
        model.bert.encoder.layer[0].eval()
        before = [module.training for module in model.modules()]
        want = attacked(tiny("bert", dropout=0.5).eval(), bert_rows, attack)
        got = attacked(model, bert_rows, attack)
        assert torch.equal(got.fooled, want.fooled)
        assert torch.equal(got.predictions, want.predictions)
        assert [module.training for module in model.modules()] == before


def three_classes() -> nn.Module:
    """Tiny BERT with another head."""
    model = tiny("bert").eval()
    model.num_labels = model.config.num_labels = 3
    model.classifier = nn.Linear(16, 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    nn.init.normal_(model.classifier.weight, std=0.3, generator=generator)
    nn.init.zeros_(model.classifier.bias)
    return model


class TestWhatIsPerturbed:
    def test_padding_and_special_tokens_stay(self):
        model, data = TextModel(), sentences(12)
        data["input_ids"][:, 0] = SPECIAL
        data["input_ids"][3, 1] = 2
        data = answered(model, data)
        clean = model.table(data["input_ids"]).detach()
        model.seen.clear()
        attack = embedding_pgd((1e-4,), 2, unit="absolute", restarts=2)
        attacked(model, data, attack, special_ids=[SPECIAL, 2])
        moved = torch.stack([(seen != clean).any(-1) for seen in model.seen if len(seen) == 12])
        ids = data["input_ids"]
        free = (data["attention_mask"] == 1) & (ids != SPECIAL) & (ids != 2)
        assert not moved[:, ~free].any()
        assert moved[-1][free].all()

    @pytest.mark.parametrize("norm", list(BALLS))
    def test_every_iterate_is_inside_the_ball(self, norm):
        model = TextModel()
        data = answered(model, sentences(12))
        clean = model.table(data["input_ids"]).detach()
        model.seen.clear()
        attack = embedding_pgd((1e-3,), 6, unit="absolute", restarts=2, norm=norm)
        assert attacked(model, data, attack).accuracy(1e-3) == 1
        order = {"l2": 2, "linf": math.inf, "l1": 1}[norm]
        norms = [
            torch.linalg.vector_norm((seen - clean).flatten(1), order, dim=1).max()
            for seen in model.seen
        ]
        assert 1e-3 * (1 - 1e-9) <= max(norms) <= 1e-3 * (1 + 1e-9)


class TestStarts:
    def test_the_first_is_the_clean_point_and_the_others_are_somewhere_else(self):
        model, data = FlatAtZero(), sentences(3)
        # Too small to fool any, so that all four starts are tried.
        attacked(model, data, embedding_pgd((1e-3,), 1, restarts=4, unit="absolute"))
        moved = [point for point in model.seen if point.any()]
        starts = moved[::2]  # each is looked at, moved, and looked at again
        assert len(moved) == 6
        assert not any(
            torch.equal(one, other) for i, one in enumerate(starts) for other in starts[:i]
        )

    def test_another_start_finds_what_the_clean_point_does_not_show(self):
        model, data = FlatAtZero(), sentences(10)
        # |s| ≤ ε·√(T·D): every ball holds a δ with s² > 1, and the clean point shows no way to it.
        for restarts, accuracy in ((1, 1.0), (2, 0.0)):
            attack = embedding_pgd((0.01, 2.0), 5, unit="absolute", restarts=restarts)
            found = attacked(model, data, attack)
            assert found.accuracy(2.0) == accuracy
            assert found.first_gradients.tolist() == [0.0] * 10  # at the clean point

    def test_they_follow_the_seed_and_the_example_alone(self):
        model, data = FlatAtZero(), sentences(6)

        def starts(seed: int) -> list[Tensor]:
            model.seen.clear()
            torch.rand(seed + 1)
            attack = embedding_pgd((0.01,), 1, restarts=2, unit="absolute", seed=seed)
            attacked(model, split(data, 3), attack)
            return list(model.seen)

        starts(0)  # the first look at a model counts its calls
        first, same, other = starts(0), starts(0), starts(1)
        assert all(map(torch.equal, first, same))
        assert not all(map(torch.equal, first, other))
        again = attacked(model, [data, data], embedding_pgd((0.01,), 1, restarts=2))
        assert torch.equal(again.l1[:6], again.l1[6:])


class TestGradients:
    """Of the first pass, as `first_gradients`."""

    def test_the_cross_entropys_is_the_margins_times_the_missing_probability(self):
        model = TextModel()
        model.head.weight.data *= 0.2
        data = answered(model, sentences(20))
        probability = model(**data)["logits"].detach().softmax(-1).amax(-1)
        for loss, factor in [("margin", 1.0), ("cross_entropy", 1 - probability)]:
            attack = embedding_pgd((1e-3,), 1, unit="absolute", loss=loss)
            got = attacked(model, data, attack).first_gradients
            assert torch.allclose(got, slope(model, data) * factor, rtol=1e-9, atol=0)

    def test_the_cross_entropys_over_several_classes(self):
        """∇ = Σ_j (p_j − [j = y])·∇z_j, of which the margin knows one j."""
        model = TextModel(classes=4)
        model.head.weight.data *= 0.2
        data = answered(model, sentences(20), wrong=2)
        gaps = model(**data)["logits"].detach().softmax(-1)
        gaps = gaps - nn.functional.one_hot(data["labels"], 4)
        tokens = data["attention_mask"].sum(1).double()
        want = (gaps @ model.head.weight.detach()).norm(dim=1) * tokens.sqrt()
        attack = embedding_pgd((1e-3,), 1, unit="absolute", loss="cross_entropy")
        got = attacked(model, data, attack).first_gradients
        assert got[:2].isnan().all()  # wrong without attack
        assert torch.allclose(got[2:], want[2:], rtol=1e-9, atol=0)

    def test_what_is_too_small_to_square_is_not_zero(self):
        model = TextModel().float()
        model.head.weight.data *= 1e-30
        model.head.bias.data.zero_()
        data = answered(model, sentences(6))
        got = attacked(model, data, embedding_pgd((1e-3,), 1, unit="absolute")).first_gradients
        assert torch.allclose(got.double(), slope(model.double(), data), rtol=1e-5, atol=0)
        assert (got > 0).all()

    def test_a_saturated_softmax_shows_nothing_and_the_margin_everything(self):
        model = TextModel().float()
        data = answered(model, sentences(30))
        epsilon = float(true_radii(model, data, "l2", "example").max()) * 1.01
        model.head.weight.data *= 1e4
        model.head.bias.data *= 1e4
        margin = embedding_pgd((epsilon,), 3, unit="absolute")
        assert attacked(model, data, margin).accuracy(epsilon) == 0
        blind = embedding_pgd((epsilon,), 3, unit="absolute", loss="cross_entropy")
        found = attacked(model, data, blind)
        assert found.first_gradients.count_nonzero() < 3
        assert torch.equal(found.fooled_at.isinf(), found.first_gradients == 0)


def slope(model: TextModel, data: dict[str, Tensor]) -> Tensor:
    """‖∇δ margin‖₂ at any δ: √T·‖w_y − w_j‖, for the sum of two-class embeddings."""
    weight = model.head.weight.detach()
    return data["attention_mask"].sum(1).double().sqrt() * (weight[0] - weight[1]).norm()


class TestRefusals:
    @pytest.mark.parametrize("case", ["one logit", "float labels", "no labels", "scores"])
    def test_what_is_no_single_label_classification(self, case):
        data = sentences(4)
        model: nn.Module = TextModel(classes=1 if case == "one logit" else 2)
        if case == "float labels":
            data["labels"] = data["labels"].double()
        if case == "no labels":
            del data["labels"]
        if case == "scores":
            data["labels"] = torch.full((4, 2), 0.3).double()
        with pytest.raises(UserError, match=r"label.*\.$"):
            attacked(model, data, embedding_pgd((0.1,)))
        assert not any(module._forward_hooks for module in model.modules())

    def test_bert_regression(self):
        model = tiny("bert")
        model.num_labels = model.config.num_labels = 1
        model.classifier = nn.Linear(16, 1, dtype=torch.float64)
        data = {**batch("bert"), "labels": torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)}
        with pytest.raises(UserError, match="classifier"):
            attacked(model, data, embedding_pgd((0.1,)))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"steps": 0}, "steps"),
            ({"restarts": 0}, "restarts"),
            ({"norm": "l3"}, "l3"),
            ({"loss": "probability"}, "loss"),
            ({"epsilons": ()}, "epsilons"),
            ({"step_size": 0}, "step_size"),
            ({"step_size": -1.0}, "step_size"),
            ({"step_size": math.nan}, "step_size"),
            ({"step_size": math.inf}, "step_size"),
        ],
        ids=str,
    )
    def test_bad_settings_are_refused_when_the_attack_is_made(self, settings, message):
        with pytest.raises(ValueError, match=message):
            embedding_pgd(**{"epsilons": (0.1,), **settings})

    @pytest.mark.parametrize("settings", [{"per": "word"}, {"unit": "percent"}], ids=str)
    def test_settings_outside_their_lists_attack_nothing(self, settings):
        with pytest.raises(ValueError, match=next(iter(settings))):
            attacked(TextModel(), sentences(2), embedding_pgd((0.1,), **settings))


def test_names_tell_attacks_apart():
    assert embedding_pgd((0.1,)).name == "embedding-pgd-l2"
    attacks = [
        embedding_pgd((0.1,)),
        embedding_pgd((0.1,), loss="cross_entropy"),
        embedding_pgd((0.1,), norm="linf"),
        embedding_pgd((0.1,), per="token"),
        embedding_pgd((0.1,), unit="absolute"),
        embedding_pgd((0.1,), unit="per_coordinate"),
    ]
    assert len({attack.name for attack in attacks}) == len(attacks)


@pytest.mark.parametrize(
    "name",
    ["EpsilonSweep", "ImageRecord", "ImageRobustness", "PixelNoise", "epsilon_sweep",
     "evaluate_images", "image_evaluator", "read_image_records"],
)  # fmt: skip
def test_old_addresses_warn(name):
    from nlp_adv import robustness
    from nlp_adv.robustness import images

    with pytest.warns(DeprecationWarning, match="embedding_pgd"):
        assert robustness.EmbeddingPGD((0.1,)).name == "embedding-pgd-l2"
    with pytest.warns(DeprecationWarning, match=f"images.{name} is nlp_adv"):
        assert callable(getattr(images, name))
