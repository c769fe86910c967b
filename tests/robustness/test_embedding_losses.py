"""What is ascended, the noise beside it, and all that an attack writes down."""

import math

import pytest
import torch
from models import tiny
from test_embedding_attack import (
    GRID,
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

from nlp_adv.perturbation import BALLS
from nlp_adv.robustness.embedding import EmbeddingNoise, EmbeddingPGD

COARSE = GRID[4:34:3]


def three_classes() -> nn.Module:
    """Tiny BERT with another head."""
    model = tiny("bert").eval()
    model.num_labels = model.config.num_labels = 3
    model.classifier = nn.Linear(16, 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    nn.init.normal_(model.classifier.weight, std=0.3, generator=generator)
    nn.init.zeros_(model.classifier.bias)
    return model


def slope(model: TextModel, data: dict[str, Tensor]) -> Tensor:
    """‖∇δ margin‖₂ at any δ: √T·‖w_y − w_j‖, for the sum of two-class embeddings."""
    weight = model.head.weight.detach()
    return data["attention_mask"].sum(1).double().sqrt() * (weight[0] - weight[1]).norm()


class TestCrossEntropy:
    @pytest.mark.parametrize("norm", list(BALLS))
    def test_of_two_classes_it_breaks_what_the_margin_breaks(self, norm):
        model = TextModel()
        data = answered(model, sentences(30))
        attack = EmbeddingPGD(COARSE, norm=norm, unit="absolute", loss="cross_entropy")
        want = smallest_above(true_radii(model, data, norm, "example"), COARSE)
        assert len(want.unique()) > 2
        assert torch.equal(attacked(model, data, attack).broken_at, want.float())

    def test_a_transcription_with_autograd_breaks_the_same(self):
        """δ ← Π(δ + 2ε·(1 − k/K)·g/‖g‖), g that of −log softmax over three classes, row by row."""
        model, epsilon, steps = three_classes(), 0.3, 4
        data = answered(model, sentences(10, columns=7))

        def broken(row: dict[str, Tensor]) -> bool:
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

        want = [broken(row) for row in split(data, 1)]
        assert 2 < sum(want) < 8
        attack = EmbeddingPGD((epsilon,), steps=steps, unit="absolute", loss="cross_entropy")
        assert attacked(model, data, attack).broken_at.isfinite().tolist() == want

    def test_its_gradient_over_several_classes(self):
        """∇ = Σ_j (p_j − [j = y])·∇z_j, of which the margin knows one j."""
        model = TextModel(classes=4)
        model.head.weight.data *= 0.2
        data = answered(model, sentences(20))
        gaps = model(**data)["logits"].detach().softmax(-1)
        gaps = gaps - nn.functional.one_hot(data["labels"], 4)
        tokens = data["attention_mask"].sum(1).double()
        want = (gaps @ model.head.weight.detach()).norm(dim=1) * tokens.sqrt()
        attack = EmbeddingPGD((1e-3,), steps=1, unit="absolute", loss="cross_entropy")
        got = attacked(model, data, attack)
        assert torch.allclose(got.gradient_norms, want, rtol=1e-9, atol=0)

    def test_its_gradient_is_the_margins_times_the_missing_probability(self):
        model = TextModel()
        model.head.weight.data *= 0.2
        data = answered(model, sentences(20))
        probability = model(**data)["logits"].detach().softmax(-1).amax(-1)
        for loss, factor in [("margin", 1.0), ("cross_entropy", 1 - probability)]:
            attack = EmbeddingPGD((1e-3,), steps=1, unit="absolute", loss=loss)
            got = attacked(model, data, attack).gradient_norms
            assert torch.allclose(got, slope(model, data) * factor, rtol=1e-9, atol=0)

    def test_a_saturated_softmax_shows_it_nothing_and_the_margin_everything(self):
        model = TextModel().float()
        data = answered(model, sentences(30))
        radii = true_radii(model, data, "l2", "example")
        model.head.weight.data *= 1e4
        model.head.bias.data *= 1e4
        epsilon = float(radii.max()) * 1.01
        margin = EmbeddingPGD((epsilon,), unit="absolute")
        assert attacked(model, data, margin).accuracy(epsilon) == 0
        blind = EmbeddingPGD((epsilon,), unit="absolute", loss="cross_entropy")
        result = attacked(model, data, blind)
        assert result.gradient_norms.count_nonzero() < 3
        assert torch.equal(result.broken_at.isinf(), result.gradient_norms == 0)

    def test_another_loss_is_refused(self):
        with pytest.raises(ValueError, match="loss"):
            EmbeddingPGD((0.1,), loss="probability")


class TestNoise:
    @pytest.mark.parametrize("per", ["example", "token"])
    @pytest.mark.parametrize("norm", list(BALLS))
    def test_every_draw_is_on_the_sphere_and_off_the_padding(self, norm, per):
        model = TextModel()
        data = answered(model, sentences(12))
        data["input_ids"][:, 0] = SPECIAL
        data = answered(model, data)
        clean = model.table(data["input_ids"]).detach()
        model.seen.clear()
        noise = EmbeddingNoise((1e-3,), draws=3, norm=norm, per=per, unit="absolute")
        attacked(model, data, noise, special_ids=[SPECIAL])
        free = (data["attention_mask"] == 1) & (data["input_ids"] != SPECIAL)
        order = {"l2": 2, "linf": math.inf, "l1": 1}[norm]
        draws = [seen - clean for seen in model.seen if not torch.equal(seen, clean)]
        assert len(draws) == 3
        for delta in draws:
            assert not delta[~free].any()
            slices = delta[free] if per == "token" else delta.flatten(1)
            lengths = torch.linalg.vector_norm(slices, order, dim=1)
            assert torch.allclose(lengths, torch.full_like(lengths, 1e-3), rtol=1e-9, atol=0)

    def test_no_direction_is_preferred(self):
        """E δ = 0 and E δδᵀ = ε²/n·I over the n free coordinates."""
        model = TextModel()
        data = answered(model, sentences(1, columns=2))
        clean = model.table(data["input_ids"]).detach()
        model.seen.clear()
        attacked(model, data, EmbeddingNoise((1e-3,), draws=1000, unit="absolute"))
        points = torch.cat([(seen - clean).flatten(1) for seen in model.seen[1:]]) / 1e-3
        count = 2 * WIDTH
        assert points.shape == (1000, count)
        assert points.mean(0).abs().max() < 4 / math.sqrt(1000 * count)
        second = points.T @ points / 1000 * count
        assert (second - torch.eye(count)).abs().max() < 0.25

    def test_it_breaks_only_inside_the_true_radius_and_less_than_ascent(self):
        model = TextModel()
        data = answered(model, sentences(60))
        radii = true_radii(model, data, "l2", "example")
        noise = attacked(model, data, EmbeddingNoise(GRID, draws=5, unit="absolute"))
        ascent = attacked(model, data, EmbeddingPGD(GRID, steps=3, unit="absolute"))
        assert (noise.broken_at >= radii).all()
        assert noise.broken_at.isfinite().any()
        assert all(ascent.accuracy(e) <= noise.accuracy(e) for e in GRID)
        assert any(ascent.accuracy(e) < noise.accuracy(e) - 0.2 for e in GRID)

    def test_it_finds_what_no_gradient_shows(self):
        model = FlatAtZero()
        data = {**sentences(20), "labels": torch.zeros(20).long()}
        noise = EmbeddingNoise((20.0,), draws=20, unit="absolute")
        assert attacked(model, data, noise).accuracy(20.0) == 0
        ascent = attacked(model, data, EmbeddingPGD((20.0,), unit="absolute"))
        assert ascent.accuracy(20.0) == 1
        assert ascent.gradient_norms.tolist() == [0.0] * 20

    def test_draws_follow_the_seed_alone(self):
        model = TextModel()
        data = answered(model, sentences(8))

        def draws(seed: int) -> list[Tensor]:
            model.seen.clear()
            torch.rand(seed + 1)
            noise = EmbeddingNoise((1e-3,), draws=2, unit="absolute", seed=seed)
            result = attacked(model, split(data, 4), noise)
            assert result.forwards.tolist() == [[3]] * 8
            assert result.passes == 0
            assert result.gradient_norms.isnan().all()
            return list(model.seen)

        first, same, other = draws(0), draws(0), draws(1)
        assert len(first) == 6
        assert all(map(torch.equal, first, same))
        assert not all(map(torch.equal, first, other))
        assert not torch.equal(first[1], first[2])

    @pytest.mark.parametrize(
        "settings", [{"draws": 0}, {"norm": "l3"}, {"epsilons": ()}, {"epsilons": (-1.0,)}], ids=str
    )
    def test_bad_settings_are_refused(self, settings):
        with pytest.raises(ValueError, match=r"\w"):
            EmbeddingNoise(**{"epsilons": (0.1,), **settings})


class TestWhatIsWrittenDown:
    def test_every_pass_of_every_row_is_counted(self):
        """Against what the model was really given."""
        model = TextModel()
        data = answered(model, sentences(20), wrong=3)
        model.seen.clear()
        attack = EmbeddingPGD(COARSE, steps=4, restarts=2, unit="absolute")
        result = attacked(model, split(data, 6), attack)
        assert int(result.forwards[:, -1].sum()) == sum(len(seen) for seen in model.seen)
        assert result.forwards[:3].tolist() == [[1] * len(COARSE)] * 3
        assert result.passes == int(result.gradient_passes.sum()) > 0

    def test_a_row_that_stands_takes_all_passes(self):
        model = TextModel()
        data = answered(model, sentences(5))
        attack = EmbeddingPGD((1e-5, 1e-4, 1e-3), steps=4, restarts=2, unit="absolute")
        result = attacked(model, data, attack)
        assert result.gradient_passes.tolist() == [3 * 2 * 4] * 5
        assert result.forwards.tolist() == [[1 + 2 * 5, 1 + 4 * 5, 1 + 6 * 5]] * 5

    def test_a_row_that_fell_takes_no_more(self):
        model = TextModel()
        radii = (*COARSE, 30.0)
        for row in split(answered(model, sentences(4)), 1):
            result = attacked(model, row, EmbeddingPGD(radii, steps=4, unit="absolute"))
            distances = [abs(e - result.broken_at.item()) for e in radii]
            place = distances.index(min(distances))
            assert distances[place] < 1e-6
            forwards = result.forwards[0]
            # Linear: the last point of each radius is the farthest, so the fall is at the sphere.
            assert forwards[:place].tolist() == [1 + 5 * (k + 1) for k in range(place)]
            assert (forwards[place:] == forwards[place]).all()
            before = forwards[place - 1] if place else 1
            assert 1 < forwards[place] - before <= 5

    @pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
    @pytest.mark.parametrize("epsilon", [1e-3, 3.0])
    def test_answers_and_confidences_are_of_the_last_point(self, epsilon, loss):
        model = TextModel(classes=3)
        for row in split(answered(model, sentences(8)), 1):
            model.seen.clear()
            attack = EmbeddingPGD((epsilon,), steps=3, restarts=2, unit="absolute", loss=loss)
            result = attacked(model, row, attack)
            last = model.logits(model.pooled(model.seen[-1], row["attention_mask"])).detach()
            assert result.answers[0, 0] == last.argmax()
            assert result.confidences[0, 0] == pytest.approx(float(last.softmax(-1).max()))
            fell = result.broken_at.isfinite().item()
            assert fell == (last.argmax() != row["labels"]).item()

    def test_clean_logits_are_the_models_whatever_the_batches(self):
        model = three_classes()
        data = answered(model, sentences(9, columns=7), wrong=2)
        result = attacked(model, split(data, 4), EmbeddingPGD((0.05,), steps=1))
        want = model(**data)["logits"].detach()
        assert torch.allclose(result.logits, want)
        assert torch.allclose(result.clean_confidences, want.softmax(-1).amax(-1))
        assert torch.equal(result.tokens, data["attention_mask"].sum(1))
        assert result.gradient_norms.isnan().tolist() == [True] * 2 + [False] * 7

    def test_gradients_are_those_at_the_clean_point(self):
        model = FlatAtZero()
        data = {**sentences(6), "labels": torch.zeros(6).long()}
        attack = EmbeddingPGD((0.01, 2.0), steps=3, restarts=3, unit="absolute")
        result = attacked(model, data, attack)
        assert result.accuracy(2.0) == 0  # from a random start, where there was a gradient
        assert result.gradient_norms.tolist() == [0.0] * 6

    def test_gradients_too_small_to_square_are_not_zero(self):
        model = TextModel().float()
        model.head.weight.data *= 1e-30
        model.head.bias.data.zero_()
        data = answered(model, sentences(6))
        result = attacked(model, data, EmbeddingPGD((1e-3,), steps=1, unit="absolute"))
        tokens = data["attention_mask"].sum(1).double().sqrt()
        weight = model.head.weight.detach().double()
        want = tokens * (weight[0] - weight[1]).norm()
        assert torch.allclose(result.gradient_norms.double(), want, rtol=1e-5, atol=0)
        assert (want > 0).all()

    @pytest.mark.parametrize("per", ["example", "token"])
    @pytest.mark.parametrize("norm", list(BALLS))
    def test_lengths_translate_radii(self, norm, per):
        model = TextModel()
        data = answered(model, sentences(10))
        mask = data["attention_mask"][..., None].double()
        embedded = model.table(data["input_ids"]).detach() * mask
        count = data["attention_mask"].sum(1) * WIDTH
        rms = embedded.square().sum((1, 2)).div(count).sqrt()
        size = torch.full_like(rms, WIDTH) if per == "token" else count.double()
        factor = {"l2": size.sqrt(), "linf": torch.ones_like(rms), "l1": size}[norm]
        settings = {"norm": norm, "per": per, "steps": 1}
        one = attacked(model, data, EmbeddingPGD((0.01,), **settings))
        assert one.relative(0.01) == pytest.approx(0.01)
        assert one.absolute(0.01) == pytest.approx(0.01 * float((rms * factor).mean()))
        two = attacked(model, data, EmbeddingPGD((0.01,), unit="absolute", **settings))
        assert two.absolute(0.01) == pytest.approx(0.01)
        assert two.relative(0.01) == pytest.approx(0.01 * float((1 / (rms * factor)).mean()))
        three = attacked(model, data, EmbeddingPGD((0.01,), unit="per_coordinate", **settings))
        assert three.absolute(0.01) == pytest.approx(0.01 * float(factor.mean()))


class TestRecords:
    def test_one_record_an_example_and_radius(self):
        model = TextModel()
        data = answered(model, sentences(12), wrong=2)
        texts = [f"it's text – number {row}, well-made" for row in range(12)]
        attack = EmbeddingPGD((0.02, 1.0, 4.0), steps=3)
        result = attacked(model, data, attack)
        records = result.records(texts, data["labels"].tolist(), first_id=100)
        assert len(records) == 36
        for place, epsilon in enumerate((0.02, 1.0, 4.0)):
            mine = records[12 * place : 12 * (place + 1)]
            assert {record.title for record in mine} == {f"embedding-pgd-l2@{epsilon:g}"}
            assert {record.epsilon for record in mine} == {epsilon}
            assert [record.id for record in mine] == list(range(100, 112))
            outcomes = [record.outcome for record in mine]
            assert outcomes[:2] == ["wrong"] * 2
            assert outcomes.count("robust") / 12 == pytest.approx(result.accuracy(epsilon))
            for row, record in enumerate(mine):
                assert (record.outcome == "robust") == bool(result.broken_at[row] > epsilon)
                assert record.text == texts[row]
                assert not record.changes_text
                assert record.label == data["labels"][row]
                assert record.prediction == result.predictions[row]
                right = record.adversarial_prediction == record.label
                assert right == (record.outcome == "robust")
                assert record.forwards == result.forwards[row, place]
                tokens = record.forwards * int(data["attention_mask"][row].sum())
                assert record.found.tokens == tokens
                assert record.found.gradient_passes == result.gradient_passes[row]
        assert {"robust", "fooled"} <= {record.outcome for record in records}
        assert any(
            a.forwards < b.forwards for a, b in zip(records[:12], records[12:24], strict=True)
        )

    def test_names_tell_attacks_apart(self):
        assert EmbeddingPGD((0.1,)).title == "embedding-pgd-l2"
        attacks = [
            EmbeddingPGD((0.1,)),
            EmbeddingPGD((0.1,), loss="cross_entropy"),
            EmbeddingPGD((0.1,), norm="linf"),
            EmbeddingPGD((0.1,), per="token"),
            EmbeddingPGD((0.1,), unit="absolute"),
            EmbeddingPGD((0.1,), unit="per_coordinate"),
            EmbeddingNoise((0.1,)),
            EmbeddingNoise((0.1,), norm="l1", per="token"),
        ]
        assert len({attack.title for attack in attacks}) == len(attacks)

    def test_ids_and_contexts_are_taken_as_given(self):
        model = TextModel()
        data = answered(model, sentences(3))
        result = attacked(model, data, EmbeddingPGD((0.01,), steps=1))
        labels = data["labels"].tolist()
        records = result.records(list("abc"), labels, ids=[7, 3, 5], contexts=list("xyz"))
        assert [(one.id, one.text, one.found.context) for one in records] == [
            (7, "a", "x"),
            (3, "b", "y"),
            (5, "c", "z"),
        ]
        assert [one.context for one in result.records(list("abc"), labels)] == [None] * 3
        with pytest.raises(ValueError, match="3"):
            result.records(list("ab"), labels)
        with pytest.raises(ValueError, match="3"):
            result.records(list("abc"), labels, ids=[1])
