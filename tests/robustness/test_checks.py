"""Checks against masking: hand-made numbers on both sides of each threshold, and the control.

The control is a model that learns and the same model with its head multiplied by 30: the same
answers, but a softmax that shows an attack nothing.
"""

import copy
import json
import math
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from embedding_results import left, measured
from hypothesis import given
from hypothesis import strategies as st
from made_records import words_record as record
from nlp_adv.robustness.checks import (
    check_budget,
    check_confidence,
    check_cross_entropy,
    check_large_radius,
    check_margin_scale,
    check_noise,
    check_overlap,
    check_radii,
    check_records,
    check_restarts,
    check_softmax_scale,
    check_steps,
    check_transfer,
    check_zero_gradients,
    embedding_checks,
    standing,
)
from torch import Tensor, nn

from nlp_adv.errors import UserError
from nlp_adv.robustness.checks_paired import Pair
from nlp_adv.robustness.embedding import EmbeddingNoise, EmbeddingPGD, embedding_robustness
from nlp_adv.robustness.scaled_logits import scaled_logits, softening_factor

CROSS_ENTROPY = EmbeddingPGD((0.1,), loss="cross_entropy")
NOISE = EmbeddingNoise((0.1,), draws=4)


def outcomes(both: int, first: int, second: int, neither: int = 0) -> Pair:
    """So many examples right in both, in the first only, in the second only, in neither."""
    groups = [(both, (1, 1)), (first, (1, 0)), (second, (0, 1)), (neither, (0, 0))]
    rows = [pair for count, pair in groups for _ in range(count)]
    return Pair([bool(a) for a, _ in rows], [bool(b) for _, b in rows])


class TestPairs:
    @pytest.mark.parametrize(
        ("first", "second", "want"),
        [
            (0, 0, 1.0),
            (7, 0, 1 / 128),
            (0, 7, 1.0),
            (3, 1, (4 + 1) / 16),
            (8, 2, (45 + 10 + 1) / 1024),
        ],
    )
    def test_p_is_the_upper_tail_of_fair_coins(self, first, second, want):
        assert outcomes(40, first, second, 9).p_value == pytest.approx(want)

    @pytest.mark.parametrize(
        ("pair", "want"),
        [
            (outcomes(50, 0, 50), True),
            (outcomes(99, 1, 0), True),  # a single example, a point
            (outcomes(18, 1, 0), True),  # a single example, though five points
            (outcomes(96, 4, 0), None),  # p = 1/16
            (outcomes(95, 5, 0), False),  # p = 1/32
            (outcomes(60, 24, 16), None),
            (outcomes(985, 9, 0), True),  # sure, but below a point
        ],
    )
    def test_verdicts(self, pair, want):
        assert pair.not_above() is want

    def test_level_looks_both_ways(self):
        assert outcomes(90, 10, 0).level(0.02) is False
        assert outcomes(90, 0, 10).level(0.02) is False
        assert outcomes(97, 0, 3).level(0.02) is None
        assert outcomes(80, 10, 10).level(0.02) is True

    def test_other_examples_are_no_pair(self):
        with pytest.raises(ValueError, match="same examples"):
            Pair([True], [True, False])

    @given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
    def test_only_one_direction_can_be_more_than_chance(self, rows):
        pair = Pair([a for a, _ in rows], [b for _, b in rows])
        back = Pair(pair.second, pair.first)
        assert pair.gap == -back.gap
        assert max(pair.p_value, back.p_value) >= 0.5
        assert True in (pair.not_above(), back.not_above())


class TestOfResults:
    @pytest.mark.parametrize(
        ("standing_rows", "length", "want"),
        [(5, 1.0, True), (6, 1.0, False), (100, 1.0, False), (100, 1.01, None), (0, 1.01, None)],
    )
    def test_a_large_radius(self, standing_rows, length, want):
        """Relative ε = 1/length; large is 1 and more."""
        result = left(standing_rows, 100 - standing_rows, epsilon=1.0, embedding_length=length)
        assert check_large_radius(result).passed is want

    def test_b_radii_attacked_alone(self):
        small, middle = left(60, 40, epsilon=0.1), left(40, 60, epsilon=0.2)
        lost = left(60, 40, epsilon=0.4)
        assert check_radii([small, middle]).passed is True
        assert check_radii([middle, small]).passed is True
        assert check_radii([lost, small, middle]).passed is False
        check = check_radii([small, middle, lost])
        assert "60.0 % at ε = 0.1, 40.0 % at ε = 0.2, 60.0 % at ε = 0.4" in check.finding

    @pytest.mark.parametrize(
        ("fewer", "more", "want"),
        [(50, 50, True), (50, 45, True), (50, 44, None), (50, 51, True), (50, 60, False)],
    )
    def test_b_steps(self, fewer, more, want):
        half = EmbeddingPGD((0.1,), steps=5)
        check = check_steps(left(fewer, 100 - fewer, attack=half), left(more, 100 - more))
        assert check.passed is want
        assert f"20 steps leave {more}.0 %, 5 steps {fewer}.0 %" in check.finding

    @pytest.mark.parametrize(
        ("one", "several", "want"),
        [(50, 50, True), (50, 45, True), (50, 30, False), (50, 60, False)],
    )
    def test_b_restarts(self, one, several, want):
        attack = EmbeddingPGD((0.1,), restarts=5)
        check = check_restarts(left(one, 100 - one), left(several, 100 - several, attack=attack))
        assert check.passed is want

    @pytest.mark.parametrize(
        ("attack", "noise", "want"), [(20, 90, True), (20, 20, True), (90, 20, False)]
    )
    def test_c_noise(self, attack, noise, want):
        result, random = left(attack, 100 - attack), left(noise, 100 - noise, attack=NOISE)
        assert check_noise(result, random).passed is want
        with pytest.raises(ValueError, match="Noise"):
            check_noise(result, result)

    @pytest.mark.parametrize(
        ("margin", "cross_entropy", "want"),
        [(20, 20, True), (20, 22, True), (20, 23, None), (20, 30, False), (30, 20, False)],
    )
    def test_d_cross_entropy(self, margin, cross_entropy, want):
        other = left(cross_entropy, 100 - cross_entropy, attack=CROSS_ENTROPY)
        assert check_cross_entropy(left(margin, 100 - margin), other).passed is want

    @pytest.mark.parametrize(
        ("given_rows", "rescaled", "want"),
        [
            (20, {0.01: 20, 30.0: 20}, True),
            (20, {0.01: 20, 30.0: 95}, True),  # any model: shown, not judged
            (20, {0.01: 19, 30.0: 95}, True),
            (20, {0.01: 17}, None),
            (90, {0.01: 20, 30.0: 95}, False),
            (90, {0.01: 90, 0.0003: 20}, False),  # the best of them counts
            (20, {0.01: 90}, True),
        ],
    )
    def test_e_softmax(self, given_rows, rescaled, want):
        def run(rows: int):
            return left(rows, 100 - rows, attack=CROSS_ENTROPY)

        scaled = {factor: run(rows) for factor, rows in rescaled.items()}
        assert check_softmax_scale(run(given_rows), scaled).passed is want

    def test_e_needs_a_factor_below_one(self):
        with pytest.raises(ValueError, match="below 1"):
            check_softmax_scale(left(1, 1), {30.0: left(1, 1)})

    @pytest.mark.parametrize(
        ("rescaled", "want"),
        [
            ({0.01: 20, 30.0: 20}, True),
            ({0.01: 20, 30.0: 21}, True),
            ({0.01: 10, 30.0: 20}, False),
            ({0.01: 20, 30.0: 30}, False),
            ({0.01: 20, 30.0: 23}, None),
        ],
    )
    def test_e_margin(self, rescaled, want):
        scaled = {factor: left(rows, 100 - rows) for factor, rows in rescaled.items()}
        assert check_margin_scale(left(20, 80), scaled).passed is want

    @pytest.mark.parametrize(
        ("norms", "want"),
        [
            ([1.0] * 95 + [0.0] * 5, True),
            ([1.0] * 94 + [0.0] * 6, False),
            ([1.0] * 94 + [math.inf] * 6, False),
            ([1e-38] * 100, True),
        ],
    )
    def test_h_zero_gradients(self, norms, want):
        # Wrong rows are never attacked and have no gradient.
        result = left(40, 60, wrong=50, gradient_norms=norms + [math.nan] * 50)
        check = check_zero_gradients(result)
        assert check.passed is want
        assert "of 100 right answers" in check.finding

    def test_h_says_which_loss(self):
        names = {
            check_zero_gradients(left(1, 1, attack=attack)).name for attack in (None, CROSS_ENTROPY)
        }
        assert names == {"zero gradients, margin", "zero gradients, cross entropy"}

    def test_nothing_compared_is_nothing_passed(self):
        idle = left(80, 0, wrong=20)
        for check in (
            check_cross_entropy(idle, left(80, 0, wrong=20, attack=CROSS_ENTROPY)),
            check_noise(idle, left(80, 0, wrong=20, attack=NOISE)),
            check_softmax_scale(idle, {0.01: idle}),
            check_zero_gradients(left(0, 0, wrong=5)),
        ):
            assert check.passed is None

    def test_results_that_do_not_belong_together_are_refused(self):
        with pytest.raises(ValueError, match="radius"):
            check_steps(left(5, 5, epsilon=0.1), left(5, 5, epsilon=0.2))
        with pytest.raises(ValueError, match="radius"):
            check_steps(left(5, 5, attack=replace(CROSS_ENTROPY, norm="linf")), left(5, 5))
        with pytest.raises(ValueError, match="examples"):
            check_steps(left(5, 5), left(5, 4, wrong=1))


class TestOfRecords:
    @pytest.mark.parametrize(
        ("after", "want"),
        [
            ([0.6] * 20, True),
            ([0.9995] * 11 + [0.5] * 9, False),  # their mean is only 77 %
            ([0.9995] * 9 + [0.5] * 11, True),
            ([0.999] * 10, False),
            ([0.9999] * 9, None),
            ([], None),
            ([0.6] * 10 + [math.nan] * 30, True),
        ],
    )
    def test_g_confidence(self, after, want):
        assert check_confidence([0.99, 0.97, math.nan], after).passed is want
        assert "98.0 %" in check_confidence([0.99, 0.97, math.nan], after).finding

    def test_g_from_records_looks_at_fallen_texts_alone(self):
        sure = {"adversarial_confidence": 0.99999}
        fallen = [record(n, "fooled") for n in range(12)]
        stood = [record(n, "robust", **sure) for n in range(12, 90)]
        assert check_records([*fallen, *stood])[0].passed is True
        fallen = [record(n, "fooled", **sure) for n in range(12)]
        assert check_records([*fallen, *stood])[0].passed is False

    @pytest.mark.parametrize(("stopped", "want"), [(0, True), (2, True), (3, False)])
    def test_i_budget(self, stopped, want):
        records = [record(n, "robust", budget_stopped=n < stopped) for n in range(20)]
        records += [record(n, "fooled") for n in range(20, 40)]
        records += [record(n, "wrong") for n in range(40, 100)]
        check = check_budget(records)
        assert check.passed is want
        assert f"{stopped} of 40 attacks" in check.finding
        assert check_records(records)[1] == check

    def test_i_of_no_attack_is_undecided(self):
        assert check_budget([record(0, "wrong")]).passed is None

    def test_f_transfer(self):
        direct = {n: n < 60 for n in range(100)}
        better = {n: n < 50 for n in range(100)}
        assert check_transfer(direct, {n: n < 80 for n in range(100)}).passed is True
        assert check_transfer(direct, direct).passed is True
        assert check_transfer(direct, better).passed is False
        assert check_transfer(direct, {}).passed is None
        elsewhere = {**better, **{n: True for n in range(200, 300)}}
        check = check_transfer(direct, elsewhere)
        assert check.passed is False
        assert "On 100 texts the direct attack leaves 60.0 %" in check.finding

    def test_f_from_records(self):
        records = [record(4, "robust"), record(7, "fooled"), record(9, "wrong")]
        assert standing(records) == {4: True, 7: False, 9: False}

    def test_j_overlap(self):
        trained = ["A  film\n", "STRASSE", ("p", "q")]
        check = check_overlap(trained, ["a FILM", "straße", ("P ", " q"), "other"])
        assert check.passed is False
        assert "3 of 4" in check.finding
        assert check_overlap(trained, [("q", "p"), "afilm", "p q"]).passed is True
        assert check_overlap(trained, []).passed is None
        many = [f"text {number}" for number in range(99)]
        assert check_overlap(trained, [*many, "a film"]).passed is True
        check = check_overlap(trained, [*many, "a film", "A film"])
        assert check.passed is False
        assert "2 of 101" in check.finding


class Reader(nn.Module):
    """A classifier of a mean embedding with one hidden layer, learnt in a second."""

    def __init__(self, vocabulary: int, classes: int = 2) -> None:
        super().__init__()
        self.config = SimpleNamespace(pad_token_id=0)
        self.table = nn.Embedding(vocabulary, 12)
        self.hidden = nn.Linear(12, 24)
        self.head = nn.Linear(24, classes)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data.normal_(std=0.5, generator=generator)

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, input_ids, attention_mask, labels=None) -> dict[str, Tensor]:
        mask = attention_mask[..., None]
        mean = (self.table(input_ids) * mask).sum(1) / mask.sum(1)
        logits = self.head(torch.tanh(self.hidden(mean)))
        loss = logits.sum() * 0 if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def opinions(count: int, seed: int) -> dict[str, Tensor]:
    """Twelve tokens of which ids below 40 speak for 0 or 1; the majority is right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 90, (count, 12), generator=generator)
    lean = ((ids < 40) * (1 - 2 * (ids % 2))).sum(1)
    kept = lean != 0
    labels = (lean < 0).long()[kept]
    return {"input_ids": ids[kept], "attention_mask": torch.ones_like(ids[kept]), "labels": labels}


@pytest.fixture(scope="module")
def reader() -> nn.Module:
    model, data = Reader(90), opinions(800, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(100):
        optimizer.zero_grad()
        model(**data)["loss"].backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model.eval()


@pytest.fixture(scope="module")
def batches() -> list[dict[str, Tensor]]:
    data = opinions(120, seed=1)
    return [{key: value[start : start + 40] for key, value in data.items()} for start in (0, 40)]


def sharpened(model: nn.Module, factor: float) -> nn.Module:
    model = copy.deepcopy(model)
    for parameter in model.head.parameters():
        parameter.data.mul_(factor)
    return model


SETTINGS = {"epsilon": 0.3, "steps": 8}


@pytest.fixture(scope="module")
def plain(reader, batches) -> dict:
    return {check.name: check for check in embedding_checks(reader, batches, **SETTINGS)}


@pytest.fixture(scope="module")
def sharp(reader, batches) -> dict:
    checks = embedding_checks(sharpened(reader, 30), batches, **SETTINGS)
    return {check.name: check for check in checks}


class TestControl:
    def test_the_model_has_learnt_and_can_be_attacked(self, reader, batches):
        result = embedding_robustness(reader, batches, EmbeddingPGD((0.3,), steps=8))
        assert result.clean_accuracy > 0.9
        assert result.accuracy(0.3) < 0.5

    def test_a_plain_model_passes(self, plain):
        assert {name: check.passed for name, check in plain.items()} == dict.fromkeys(plain, True)
        assert len(plain) == 14

    def test_a_sharpened_one_fails_where_the_softmax_is_asked(self, sharp):
        failed = {name for name, check in sharp.items() if check.passed is False}
        assert failed == {
            "cross entropy",
            "logit scale, softmax",
            "zero gradients, cross entropy",
            "confidence",
        }

    def test_and_is_no_other_model_to_the_margin(self, plain, sharp):
        same = ("large radius", "radius", "steps", "step size", "restarts", "noise")
        assert all(sharp[name] == plain[name] for name in same)
        assert sharp["logit scale, margin"] == plain["logit scale, margin"]

    def test_no_sharpening_is_too_much_to_be_found(self, reader, batches):
        """×0.01 does not take this one back; the fitted factor does."""
        checks = embedding_checks(sharpened(reader, 1e6), batches, **SETTINGS)
        check = next(check for check in checks if check.name == "logit scale, softmax")
        assert check.passed is False

    def test_findings_are_sentences_of_plain_values(self, plain, sharp):
        for check in (*plain.values(), *sharp.values()):
            assert check.finding.endswith(".")
            assert check.meaning.endswith(".")
            assert json.loads(json.dumps(asdict(check))) == asdict(check)

    def test_a_model_that_reads_nothing_fails_at_the_large_radius(self, reader, batches):
        model = copy.deepcopy(reader)
        model.head.weight.data.zero_()
        model.head.bias.data.copy_(torch.tensor([1.0, 0.0]))
        checks = {one.name: one for one in embedding_checks(model, batches, epsilon=0.3, steps=2)}
        assert checks["large radius"].passed is False
        assert checks["zero gradients, margin"].passed is False
        assert checks["noise"].passed is None

    def test_a_start_without_gradient_is_found_by_restarts(self, batches):
        """The margin of class 0 is 1 − 100·|mean|²: flat where the embeddings are 0."""

        class Flat(Reader):
            def forward(self, input_ids, attention_mask, labels=None):
                square = 100 * self.table(input_ids).mean(1).square().sum(-1)
                logits = torch.stack([1 - square, torch.zeros_like(square)], -1)
                return {"loss": logits.sum(), "logits": logits}

        model = Flat(90)
        model.table.weight.data.zero_()
        data = [{**batch, "labels": torch.zeros_like(batch["labels"])} for batch in batches]
        settings = {"epsilon": 5.0, "unit": "absolute", "steps": 8}
        checks = {one.name: one for one in embedding_checks(model, data, **settings)}
        assert checks["restarts"].passed is False
        assert checks["zero gradients, margin"].passed is False


class TestTheDriver:
    @pytest.mark.parametrize("settings", [{"epsilon": 0.0}, {"epsilon": 0.1, "restarts": 1}])
    def test_what_cannot_be_compared_is_refused(self, reader, batches, settings):
        with pytest.raises(UserError):
            embedding_checks(reader, batches, **settings)

    def test_no_data(self, reader):
        with pytest.raises(UserError, match="empty"):
            embedding_checks(reader, [], epsilon=0.1)

    def test_batches_may_come_once_and_nothing_is_left_behind(self, reader, batches, capsys):
        before = {name: value.clone() for name, value in reader.state_dict().items()}
        random_state = torch.get_rng_state()
        once = embedding_checks(reader, iter(batches), epsilon=0.3, steps=2, progress="Checking")
        assert once == embedding_checks(reader, batches, epsilon=0.3, steps=2)
        assert "Checking: 100%" in capsys.readouterr().err.split("\r")[-1]
        assert torch.equal(torch.get_rng_state(), random_state)
        assert all(torch.equal(value, before[name]) for name, value in reader.state_dict().items())
        assert not any(module._forward_hooks for module in reader.modules())
        assert all(parameter.grad is None for parameter in reader.parameters())

    @pytest.mark.parametrize("factor", [1e-3, 1e3])
    def test_the_bar_ends_full(self, reader, batches, capsys, factor):
        """Also where the logits need no calibration, and there is a run less."""
        embedding_checks(
            sharpened(reader, factor), batches[:1], epsilon=0.3, steps=1, progress="Checking"
        )
        runs = 13 if factor < 1 else 14
        assert f"100%|██████████| {runs}/{runs} " in capsys.readouterr().err.split("\r")[-1]

    def test_the_confidence_is_of_fallen_examples_alone(self, reader, batches):
        """Neither of those that stand nor of those that were wrong without attack."""
        batch = dict(batches[0])
        batch["labels"] = torch.where(torch.arange(40) < 5, 1 - batch["labels"], batch["labels"])
        attack = EmbeddingPGD((0.2,), steps=4, step_size=2.5 / 4)  # short: close to the border
        result = embedding_robustness(reader, [batch], attack)
        fallen = result.broken_at == torch.tensor(0.2)
        assert 10 <= fallen.sum() < 30
        assert (result.broken_at == 0).sum() >= 5
        checks = embedding_checks(reader, [batch], epsilon=0.2, steps=4, draws=3)
        found = {check.name: check.finding for check in checks}
        mean = 100 * float(result.confidences[fallen, 0].mean())
        assert f"{mean:.1f} % in the {int(fallen.sum())} wrong answers" in found["confidence"]
        assert "the best of 3 random directions" in found["noise"]

    @pytest.mark.parametrize("norm", ["linf", "l1"])
    @pytest.mark.parametrize("unit", ["absolute", "per_coordinate"])
    def test_large_is_one_embedding_norm_in_any_unit(self, reader, batches, norm, unit):
        settings = {"norm": norm, "unit": unit, "steps": 2}
        checks = embedding_checks(reader, batches, epsilon=1e-3, **settings)
        large = next(check for check in checks if check.name == "large radius")
        assert large.passed is not None
        assert ", 1 times the embedding norm" in large.finding


class TestScaledLogits:
    @pytest.mark.parametrize("factor", [0.01, 30.0])
    def test_only_the_logits_are_multiplied(self, reader, batches, factor):
        plain = reader(**batches[0])
        with scaled_logits(reader, factor):
            scaled = reader(**batches[0])
        assert torch.equal(scaled["logits"], plain["logits"] * factor)
        assert torch.equal(scaled["loss"], plain["loss"])
        assert torch.equal(reader(**batches[0])["logits"], plain["logits"])

    def test_no_trace_after_an_exception(self, reader):
        with pytest.raises(RuntimeError, match="inside"), scaled_logits(reader, 2.0):
            raise RuntimeError("inside")
        assert not reader._forward_hooks

    @given(st.floats(1e-3, 1e4), st.floats(0.55, 0.99))
    def test_two_equal_margins_have_a_closed_form(self, margin, confidence):
        """σ(f·m) = c ⇔ f = log(c/(1 − c))/m."""
        logits = torch.tensor([[margin, 0.0], [-margin, 0.0], [torch.nan, 0.0]])
        want = math.log(confidence / (1 - confidence)) / margin
        assert softening_factor(logits, confidence) == pytest.approx(want, rel=1e-4)

    def test_it_reaches_the_mean_confidence(self):
        generator = torch.Generator().manual_seed(0)
        logits = 100 * torch.randn(50, 4, generator=generator)
        factor = softening_factor(logits, 0.8)
        assert float((factor * logits).softmax(-1).amax(-1).mean()) == pytest.approx(0.8, abs=1e-4)
        assert softening_factor(30 * logits, 0.8) == pytest.approx(factor / 30, rel=1e-4)

    @pytest.mark.parametrize("logits", [torch.zeros(4, 2), torch.full((4, 2), torch.nan)])
    def test_logits_that_tell_nothing_apart_stay(self, logits):
        assert softening_factor(logits, 0.9) == 1.0


def test_injected_results_are_made_as_attacks_make_them(reader, batches):
    """The hand-made results above have the shapes of real ones."""
    real = embedding_robustness(reader, batches, EmbeddingPGD((0.1, 0.2), steps=2))
    made = measured([0.0] * 80, EmbeddingPGD((0.1, 0.2)))
    for name, value in vars(made).items():
        if isinstance(value, Tensor):
            assert getattr(real, name).shape == value.shape
            assert getattr(real, name).dtype == value.dtype
