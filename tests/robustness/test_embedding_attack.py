"""Accuracy under attack: closed-form radii, independence of the batch, nothing left behind."""

import math
from types import SimpleNamespace

import pytest
import torch
from models import VOCAB, batch, gradients, tiny
from torch import Tensor, nn

from nlp_adv.errors import UserError
from nlp_adv.perturbation import BALLS
from nlp_adv.robustness.embedding import EmbeddingPGD, embedding_robustness

WIDTH = 6
SPECIAL = 1
GRID = tuple(float(e) for e in torch.logspace(-2.5, 1, 40, dtype=torch.float64))


class TextModel(nn.Module):
    """logits = head(Σ or mean of the embeddings of real tokens); remembers what it embedded."""

    def __init__(self, *, classes: int = 2, mean: bool = False) -> None:
        super().__init__()
        self.config = SimpleNamespace(pad_token_id=0)
        generator = torch.Generator().manual_seed(3)
        self.table = nn.Embedding(VOCAB, WIDTH, dtype=torch.float64)
        self.head = nn.Linear(WIDTH, classes, dtype=torch.float64)
        for parameter in self.parameters():
            parameter.data.normal_(generator=generator)
        self.mean = mean
        self.seen: list[Tensor] = []

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def pooled(self, embedded: Tensor, attention_mask: Tensor) -> Tensor:
        total = (embedded * attention_mask[..., None]).sum(1)
        return total / attention_mask.sum(1, keepdim=True) if self.mean else total

    def logits(self, pooled: Tensor) -> Tensor:
        return self.head(pooled)

    def forward(self, input_ids, attention_mask, labels=None) -> dict[str, Tensor]:
        embedded = self.table(input_ids)
        self.seen.append(embedded.detach().clone())
        logits = self.logits(self.pooled(embedded, attention_mask))
        if labels is None:
            return {"logits": logits}
        index = labels.long() % logits.shape[1]
        return {"loss": nn.functional.cross_entropy(logits, index), "logits": logits}


class FlatAtZero(TextModel):
    """The margin of class 0 is 1 − s², s = ⟨1, Σδ⟩: no gradient at the clean point."""

    def __init__(self) -> None:
        super().__init__()
        self.table.weight.data.zero_()

    def logits(self, pooled: Tensor) -> Tensor:
        square = pooled.sum(-1) ** 2
        return torch.stack([1 - square, torch.zeros_like(square)], -1)


def sentences(count: int, *, columns: int = 9, seed: int = 0) -> dict[str, Tensor]:
    """Random sentences of 2 to `columns` tokens, padded on the right; no token is 0 to 3."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, columns + 1, (count, 1), generator=generator)
    attention = (torch.arange(columns) < lengths).long()
    ids = torch.randint(4, VOCAB, (count, columns), generator=generator) * attention
    return {"input_ids": ids, "attention_mask": attention, "labels": torch.zeros(count).long()}


def answered(model: nn.Module, data: dict[str, Tensor], *, wrong: int = 0) -> dict[str, Tensor]:
    """The same rows labelled as the model answers them, but for the first `wrong`."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(**data)["logits"]
    model.train(was_training)
    labels = logits.argmax(-1)
    labels[:wrong] = (labels[:wrong] + 1) % logits.shape[1]
    return {**data, "labels": labels}


def split(data: dict[str, Tensor], size: int, order: Tensor | None = None) -> list[dict]:
    order = torch.arange(len(data["labels"])) if order is None else order
    return [{key: value[rows] for key, value in data.items()} for rows in order.split(size)]


def smallest_above(radii: Tensor, tried: tuple[float, ...]) -> Tensor:
    """The smallest tried radius above each true one, inf where there is none."""
    grid = torch.tensor([*sorted(tried), math.inf], dtype=torch.float64)
    assert ((radii[:, None] / grid[:-1]).log().abs() > 1e-9).all()  # no tie to be decided
    return grid[torch.searchsorted(grid[:-1].contiguous(), radii.double().contiguous())]


def true_radii(model: TextModel, data: dict[str, Tensor], norm: str, per: str) -> Tensor:
    """Smallest ‖δ‖ at which some other class is level: min_j (z_y − z_j) / ‖∇(z_y − z_j)‖_dual.

    The gradient is w_y − w_j at every real token (divided by their number for the mean), so its
    dual norm over T tokens is T^(1/2) or T or 1 times that of one token; with one constraint per
    token every token moves as far, and the factor is T.
    """
    dual = {"l2": 2, "linf": 1, "l1": math.inf}[norm]
    tokens = data["attention_mask"].sum(1).double()
    factor = tokens if per == "token" else {"l2": tokens.sqrt(), "linf": tokens}.get(norm, 1.0)
    if model.mean:
        factor = factor / tokens
    with torch.no_grad():
        logits = model(**data)["logits"]
    labels = data["labels"]
    own = logits.gather(1, labels[:, None])
    slopes = model.head.weight.detach()[labels][:, None] - model.head.weight.detach()  # (N, C, D)
    lengths = torch.linalg.vector_norm(slopes, dual, dim=-1)
    radii = ((own - logits) / lengths).scatter(1, labels[:, None], math.inf).amin(1)
    return radii / factor


def attacked(model: nn.Module, data, attack: EmbeddingPGD, **options):
    return embedding_robustness(
        model, data if isinstance(data, list) else [data], attack, **options
    )


@pytest.fixture(scope="module")
def bert_rows() -> dict[str, Tensor]:
    """Twelve rows that tiny BERT gets right and two that it gets wrong."""
    return answered(tiny("bert").eval(), sentences(14, columns=8), wrong=2)


RADII = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


class TestClosedForm:
    @pytest.mark.parametrize("mean", [False, True])
    @pytest.mark.parametrize("per", ["example", "token"])
    @pytest.mark.parametrize("norm", list(BALLS))
    def test_an_example_breaks_at_the_smallest_radius_above_its_own(self, norm, per, mean):
        model = TextModel(mean=mean)
        data = answered(model, sentences(40))
        radii = true_radii(model, data, norm, per)
        attack = EmbeddingPGD(GRID, norm=norm, per=per, unit="absolute")
        result = attacked(model, data, attack)
        want = smallest_above(radii, GRID)
        assert len(want.unique()) > 5
        assert torch.equal(result.broken_at, want.to(result.broken_at.dtype))

    @pytest.mark.parametrize("steps", [1, 2, 3, 7])
    def test_any_number_of_steps_reaches_the_sphere(self, steps):
        model = TextModel()
        data = answered(model, sentences(30))
        attack = EmbeddingPGD(GRID, steps=steps, unit="absolute")
        want = smallest_above(true_radii(model, data, "l2", "example"), GRID)
        assert torch.equal(attacked(model, data, attack).broken_at, want.float())

    @pytest.mark.parametrize("norm", list(BALLS))
    def test_relative_radii_are_shares_of_the_embedding_norm(self, norm):
        model = TextModel()
        data = answered(model, sentences(40))
        mask = data["attention_mask"][..., None].double()
        embedded = model.table(data["input_ids"]).detach() * mask
        count = data["attention_mask"].sum(1) * WIDTH
        rms = embedded.square().sum((1, 2)).div(count).sqrt()
        unit = rms * {"l2": count.sqrt(), "linf": 1.0, "l1": count}[norm]
        want = smallest_above(true_radii(model, data, norm, "example") / unit, GRID)
        assert len(want.unique()) > 5
        result = attacked(model, data, EmbeddingPGD(GRID, norm=norm))
        assert torch.equal(result.broken_at, want.float())

    @pytest.mark.parametrize("norm", list(BALLS))
    def test_with_several_classes_nothing_falls_inside_its_radius(self, norm):
        model = TextModel(classes=4)
        data = answered(model, sentences(40))
        radii = true_radii(model, data, norm, "example")
        result = attacked(model, data, EmbeddingPGD(GRID, norm=norm, unit="absolute"))
        assert (result.broken_at >= radii).all()
        # Where the nearest border is also that of the second-best answer, ascent takes it.
        assert result.broken_at.isfinite().double().mean() > 0.9

    def test_special_tokens_that_stay_leave_a_larger_radius(self):
        model = TextModel()
        data = sentences(30)
        data["input_ids"][:, 0] = SPECIAL
        data = answered(model, data)
        attack = EmbeddingPGD(GRID, unit="absolute")
        tokens = data["attention_mask"].sum(1).double()
        radii = true_radii(model, data, "l2", "example") * (tokens / (tokens - 1)).sqrt()
        result = attacked(model, data, attack, special_ids=[SPECIAL])
        assert torch.equal(result.broken_at, smallest_above(radii, GRID).float())


class TestCounts:
    def test_radius_zero_is_accuracy_without_attack(self, bert_rows):
        result = attacked(tiny("bert").eval(), bert_rows, EmbeddingPGD((0.0,)))
        assert result.clean_accuracy == pytest.approx(12 / 14)
        assert result.accuracy(0.0) == result.clean_accuracy
        assert torch.equal(result.broken_at > 0, torch.arange(14) >= 2)

    def test_rows_that_were_wrong_are_broken_at_zero_whatever_the_radius(self, bert_rows):
        for epsilons in [(0.8,), (0.0, 0.8), RADII]:
            result = attacked(tiny("bert").eval(), bert_rows, EmbeddingPGD(epsilons))
            assert result.broken_at[:2].tolist() == [0, 0]
            assert (result.broken_at[2:] > 0).all()

    def test_predictions_are_the_models_answers(self, bert_rows):
        model = tiny("bert").eval()
        result = attacked(model, split(bert_rows, 5), EmbeddingPGD((0.8,)))
        with torch.no_grad():
            want = model(**bert_rows)["logits"].argmax(-1)
        assert len(want.unique()) == 2
        assert torch.equal(result.predictions, want)
        assert result.examples == 14
        assert not result.is_constant

    def test_a_model_with_one_answer_is_called_constant(self, bert_rows):
        model = tiny("bert").eval()
        model.classifier.weight.data.zero_()
        model.classifier.bias.data.copy_(torch.tensor([1.0, 0.0]))
        result = attacked(model, bert_rows, EmbeddingPGD((0.1,)))
        assert result.is_constant
        assert result.accuracy(0.1) == result.clean_accuracy  # nothing can move its answer

    def test_accuracy_is_the_share_that_stood(self, bert_rows):
        result = attacked(tiny("bert").eval(), bert_rows, EmbeddingPGD(RADII))
        accuracies = [result.accuracy(e) for e in (0.0, *RADII)]
        assert accuracies == sorted(accuracies, reverse=True)
        assert len(set(accuracies)) > 2
        for epsilon in RADII:
            fallen = sum(value <= torch.tensor(epsilon).float() for value in result.broken_at)
            assert result.accuracy(epsilon) == pytest.approx(1 - float(fallen) / 14)

    @pytest.mark.parametrize("epsilon", [0.1, 0.7, 3.3, 1e4 / 3])
    def test_a_row_broken_at_a_radius_did_not_stand_there(self, epsilon):
        """Whichever side of ε its neighbour in float32 lies."""
        model = TextModel()
        model.table.weight.data.mul_(1e-6)
        model.head.bias.data.zero_()
        data = answered(model, sentences(20))
        assert (true_radii(model, data, "l2", "example") < 1e-4).all()
        result = attacked(model, data, EmbeddingPGD((epsilon,), unit="absolute"))
        assert result.clean_accuracy == 1
        assert result.accuracy(epsilon) == 0

    def test_radii_may_come_in_any_order(self, bert_rows):
        model = tiny("bert").eval()
        up = attacked(model, bert_rows, EmbeddingPGD(RADII))
        down = attacked(model, bert_rows, EmbeddingPGD(RADII[::-1]))
        assert torch.equal(up.broken_at, down.broken_at)

    def test_a_radius_alone_breaks_what_it_breaks_in_company(self):
        model = TextModel()
        data = answered(model, sentences(30))
        together = attacked(model, data, EmbeddingPGD(GRID, unit="absolute"))
        for epsilon in GRID[10:35:6]:
            alone = attacked(model, data, EmbeddingPGD((epsilon,), unit="absolute"))
            assert alone.accuracy(epsilon) == together.accuracy(epsilon)


class TestRows:
    @pytest.mark.parametrize("norm", ["l2", "linf"])
    def test_rows_do_not_know_their_batch(self, bert_rows, norm):
        model, attack = tiny("bert").eval(), EmbeddingPGD(RADII, steps=5, norm=norm)
        want = attacked(model, bert_rows, attack).broken_at
        assert len(want.unique()) > 3
        for size in (1, 5):
            assert torch.equal(attacked(model, split(bert_rows, size), attack).broken_at, want)

    def test_rows_do_not_know_their_place(self, bert_rows):
        model, attack = tiny("bert").eval(), EmbeddingPGD(RADII, steps=8)
        want = attacked(model, bert_rows, attack).broken_at
        order = torch.randperm(14, generator=torch.Generator().manual_seed(5))
        got = attacked(model, split(bert_rows, 5, order), attack).broken_at
        assert torch.equal(got, want[order])
        assert not torch.equal(want, want[order])

    def test_padding_changes_nothing(self, bert_rows):
        model, attack = tiny("bert").eval(), EmbeddingPGD(RADII)
        longer = {
            key: nn.functional.pad(value, (0, 3)) if value.ndim == 2 else value
            for key, value in bert_rows.items()
        }
        want = attacked(model, bert_rows, attack).broken_at
        assert torch.equal(attacked(model, longer, attack).broken_at, want)

    @pytest.mark.parametrize("scale", [30, 0.01])
    def test_the_scale_of_the_logits_changes_nothing(self, bert_rows, scale):
        model, attack = tiny("bert").eval(), EmbeddingPGD(RADII)
        want = attacked(model, bert_rows, attack).broken_at
        assert len(want.unique()) > 3
        for parameter in model.classifier.parameters():
            parameter.data.mul_(scale)
        assert torch.equal(attacked(model, bert_rows, attack).broken_at, want)

    @pytest.mark.parametrize("scale", [1e3, 1e6])
    def test_saturated_float32_logits_hide_nothing(self, bert_rows, scale):
        """A softmax of these logits is exactly 1 and has no gradient."""
        model, attack = tiny("bert").eval().float(), EmbeddingPGD(RADII)
        want = attacked(model, bert_rows, attack)
        for parameter in model.classifier.parameters():
            parameter.data.mul_(scale)
        got = attacked(model, bert_rows, attack)
        assert want.accuracy(0.8) < want.clean_accuracy - 0.3
        assert [got.accuracy(e) for e in RADII] == pytest.approx(
            [want.accuracy(e) for e in RADII], abs=1.5 / 14
        )

    @pytest.mark.parametrize("norm", ["l2", "linf"])
    def test_relative_is_absolute_times_the_embedding_norm(self, bert_rows, norm):
        model, relative = tiny("bert").eval(), GRID[8:34:3]
        for row in split(bert_rows, 1)[2:5]:
            real = model.get_input_embeddings()(row["input_ids"])[row["attention_mask"] == 1]
            length = (real.norm() if norm == "l2" else real.square().mean().sqrt()).item()
            absolute = tuple(epsilon * length for epsilon in relative)
            shares = EmbeddingPGD(relative, norm=norm, steps=6)
            lengths = EmbeddingPGD(absolute, norm=norm, steps=6, unit="absolute")
            one = attacked(model, row, shares).broken_at.item()
            other = attacked(model, row, lengths).broken_at.item()
            assert relative[0] * 0.99 < one < math.inf
            assert one * length == pytest.approx(other, rel=1e-6)


class TestStarts:
    def test_more_restarts_break_no_fewer(self, bert_rows):
        model = tiny("bert").eval()
        one = attacked(model, bert_rows, EmbeddingPGD(RADII, steps=3)).broken_at
        three = attacked(model, bert_rows, EmbeddingPGD(RADII, steps=3, restarts=3)).broken_at
        assert (three <= one).all()
        assert one.isfinite().any()

    def test_the_first_start_is_the_clean_point_and_the_others_are_not(self):
        model = FlatAtZero()
        data = {**sentences(10), "labels": torch.zeros(10).long()}
        # |s| ≤ ε·√(T·D): every ball holds a δ with s² > 1, and the clean point shows no way to it.
        one = EmbeddingPGD((2.0,), unit="absolute")
        assert attacked(model, data, one).accuracy(2.0) == 1
        again = EmbeddingPGD((2.0,), unit="absolute", restarts=2)
        assert attacked(model, data, again).accuracy(2.0) == 0

    def test_random_starts_follow_the_seed_alone(self):
        model = FlatAtZero()
        data = {**sentences(6), "labels": torch.zeros(6).long()}

        def starts(seed: int) -> list[Tensor]:
            model.seen.clear()
            torch.rand(seed + 1)
            attack = EmbeddingPGD((0.01,), steps=1, restarts=2, unit="absolute", seed=seed)
            attacked(model, split(data, 3), attack)
            return list(model.seen)

        first, same, other = starts(0), starts(0), starts(1)
        assert all(map(torch.equal, first, same))
        assert not all(map(torch.equal, first, other))


class TestWhatIsPerturbed:
    def test_padding_and_special_tokens_stay(self):
        model = TextModel()
        data = sentences(12)
        data["input_ids"][:, 0] = SPECIAL
        data["input_ids"][3, 1] = 2
        data = answered(model, data)
        clean = model.table(data["input_ids"]).detach()
        model.seen.clear()
        attack = EmbeddingPGD((1e-4,), steps=2, unit="absolute", restarts=2)
        attacked(model, data, attack, special_ids=[SPECIAL, 2])
        moved = torch.stack([(seen != clean).any(-1) for seen in model.seen if len(seen) == 12])
        ids = data["input_ids"]
        free = (data["attention_mask"] == 1) & (ids != SPECIAL) & (ids != 2)
        assert not moved[:, ~free].any()
        assert moved[-1][free].all()

    def test_every_iterate_is_inside_the_ball(self):
        model = TextModel()
        data = answered(model, sentences(12))
        clean = model.table(data["input_ids"]).detach()
        for norm, order in {"l2": 2, "linf": math.inf, "l1": 1}.items():
            model.seen.clear()
            attack = EmbeddingPGD((1e-3,), unit="absolute", restarts=2, norm=norm)
            result = attacked(model, data, attack)
            assert result.accuracy(1e-3) == 1
            norms = [
                torch.linalg.vector_norm((seen - clean).flatten(1), order, dim=1)
                for seen in model.seen
            ]
            assert max(float(n.max()) for n in norms) <= 1e-3 * (1 + 1e-9)
            assert max(float(n.max()) for n in norms) >= 1e-3 * (1 - 1e-9)

    def test_a_named_module_is_the_one_that_is_attacked(self):
        model = TextModel()
        model.get_input_embeddings = lambda: None
        data = answered(model, sentences(6))
        attack = EmbeddingPGD(GRID, unit="absolute")
        with pytest.raises(UserError, match="embedding"):
            attacked(model, data, attack)
        want = smallest_above(true_radii(model, data, "l2", "example"), GRID)
        got = attacked(model, data, attack, embedding="table").broken_at
        assert torch.equal(got, want.float())


def state(model: nn.Module) -> dict:
    """All that an attack could leave behind."""
    return {
        "training": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [p.grad for p in model.parameters()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "tensor hooks": [len(p._backward_hooks or ()) for p in model.parameters()],
    }


class TestNothingIsLeftBehind:
    @pytest.fixture
    def model(self) -> nn.Module:
        """In a state that no blanket `train()` or `requires_grad_()` could restore."""
        model = tiny("bert", dropout=0.3)
        model.bert.encoder.layer[0].eval()
        model.bert.encoder.layer[1].attention.eval()
        model.bert.encoder.layer[1].intermediate.dense.weight.requires_grad_(False)
        model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
        return model

    ATTACK = EmbeddingPGD((0.05, 0.4), steps=3, restarts=2)

    def test_after_an_attack(self, model, bert_rows):
        before, random_state = state(model), torch.get_rng_state()
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        batches = split(bert_rows, 5)
        copies = [{key: value.clone() for key, value in one.items()} for one in batches]
        attacked(model, batches, self.ATTACK)
        assert state(model) == before
        assert torch.equal(torch.get_rng_state(), random_state)
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
        for one, copy in zip(batches, copies, strict=True):
            assert one.keys() == copy.keys()
            assert all(torch.equal(one[key], copy[key]) for key in copy)

    def test_gradients_that_were_there_are_there(self, model, bert_rows):
        model(**bert_rows)["loss"].backward()
        before = gradients(model)
        attacked(model, bert_rows, self.ATTACK)
        after = gradients(model)
        assert any(value.any() for value in before.values())
        assert all(torch.equal(after[name], before[name]) for name in before)

    @pytest.mark.parametrize("at", [1, 2, 4])
    def test_after_an_exception_inside_the_model(self, model, bert_rows, at):
        """At the look at the embedding and the clean pass, an inner pass, or later."""
        calls = []

        def fail(*args):
            calls.append(1)
            if len(calls) == at:
                raise RuntimeError("broken inside")

        model.classifier.register_forward_pre_hook(fail)
        before, random_state = state(model), torch.get_rng_state()
        with pytest.raises(RuntimeError, match="broken inside"):
            attacked(model, bert_rows, self.ATTACK)
        assert len(calls) == at
        assert state(model) == before
        assert torch.equal(torch.get_rng_state(), random_state)
        assert torch.is_grad_enabled()

    def test_after_an_exception_in_the_data(self, model, bert_rows):
        def batches():
            yield bert_rows
            raise RuntimeError("no more")

        before = state(model)
        with pytest.raises(RuntimeError, match="no more"):
            embedding_robustness(model, batches(), self.ATTACK)
        assert state(model) == before

    def test_dropout_is_off_during_the_attack_only(self, bert_rows):
        attack = EmbeddingPGD(RADII)
        model = tiny("bert", dropout=0.5)
        want = attacked(tiny("bert", dropout=0.5).eval(), bert_rows, attack)
        got = attacked(model, bert_rows, attack)
        assert len(want.broken_at.unique()) > 3
        assert torch.equal(got.broken_at, want.broken_at)
        assert torch.equal(got.predictions, want.predictions)
        assert all(module.training for module in model.modules())


class TestRefusals:
    def test_empty_data(self):
        model = tiny("bert")
        before = state(model)
        with pytest.raises(UserError, match="empty"):
            embedding_robustness(model, [], EmbeddingPGD((0.1,)))
        assert state(model) == before

    @pytest.mark.parametrize("case", ["one logit", "float labels", "no labels", "many labels"])
    def test_what_is_no_single_label_classification(self, case):
        data = sentences(4)
        if case == "float labels":
            data["labels"] = data["labels"].double()
        if case == "no labels":
            del data["labels"]
        if case == "many labels":
            data["labels"] = torch.zeros(4, 2)
        model: nn.Module = TextModel(classes=1 if case == "one logit" else 2)
        if case == "many labels":
            model = tiny("bert")
            model.config.problem_type = "multi_label_classification"
            data["labels"] = data["labels"].double()
        before = state(model)
        with pytest.raises(UserError) as caught:
            attacked(model, data, EmbeddingPGD((0.1,)))
        assert "label" in str(caught.value)
        assert str(caught.value).endswith(".")
        assert state(model) == before

    def test_bert_regression(self):
        model = tiny("bert")
        model.num_labels = model.config.num_labels = 1
        model.classifier = nn.Linear(16, 1, dtype=torch.float64)
        data = {**batch("bert"), "labels": torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)}
        with pytest.raises(UserError, match="classifier"):
            attacked(model, data, EmbeddingPGD((0.1,)))

    def test_one_word_per_token_is_no_sentence_classification(self):
        with pytest.raises(UserError, match="classifier"):
            attacked(tiny("gpt2_lm"), batch("gpt2_lm"), EmbeddingPGD((0.1,)))

    @pytest.mark.parametrize(
        "settings",
        [
            {"steps": 0},
            {"restarts": 0},
            {"norm": "l3"},
            {"epsilons": ()},
            {"epsilons": (0.1, -0.1)},
            {"epsilons": (math.nan,)},
            {"epsilons": (0.1, math.nan)},
            {"epsilons": (math.inf,)},
        ],
        ids=str,
    )
    def test_bad_settings_are_refused_when_the_attack_is_made(self, settings):
        with pytest.raises(ValueError, match=r"\w"):
            EmbeddingPGD(**{"epsilons": (0.1,), **settings})

    @pytest.mark.parametrize("settings", [{"per": "word"}, {"unit": "percent"}], ids=str)
    def test_settings_outside_their_lists_attack_nothing(self, settings, bert_rows):
        model = tiny("bert").eval()
        with pytest.raises(ValueError, match=next(iter(settings))):
            attacked(model, bert_rows, EmbeddingPGD((0.1,), **settings))


class TestStartsAndNumbers:
    def test_every_restart_starts_somewhere_else(self):
        model, data = FlatAtZero(), sentences(3)
        data["labels"] = torch.zeros(3, dtype=torch.long)
        # Too small to break anything, so that all four starts are tried.
        attacked(model, data, EmbeddingPGD((1e-3,), steps=1, restarts=4, unit="absolute"))
        starts = [point for point in model.seen if point.abs().max() > 0]
        first_steps = [starts[i] for i in range(0, len(starts), 2)]
        assert len(first_steps) >= 3
        for i, one in enumerate(first_steps):
            for other in first_steps[:i]:
                assert not torch.equal(one, other)

    def test_a_model_that_answers_nan_is_wrong_and_not_robust(self):
        class Half(TextModel):
            def logits(self, pooled):
                logits = super().logits(pooled)
                return torch.where(pooled[:, :1] > 0, logits, torch.nan)

        model, data = Half(), sentences(20)
        data["labels"] = torch.zeros(20, dtype=torch.long)  # what argmax makes of nan
        result = attacked(model, data, EmbeddingPGD((1e-9,), steps=2, unit="absolute"))
        finite = result.logits.isfinite().all(-1)
        assert 0 < finite.sum() < 20
        assert torch.equal(result.broken_at > 0, finite & (result.logits.argmax(-1) == 0))
        assert result.clean_accuracy == result.accuracy(1e-9)
        assert result.predictions[~finite].tolist() == [-1] * int((~finite).sum())

    def test_a_model_that_turns_nan_under_attack_has_fallen(self):
        class Brittle(TextModel):
            def logits(self, pooled):
                moved = (pooled - self.clean).abs().sum() > 0 if hasattr(self, "clean") else False
                return super().logits(pooled) * (torch.nan if moved else 1.0)

        model = Brittle()
        data = answered(model, sentences(1))
        with torch.no_grad():
            mask = data["attention_mask"]
            model.clean = model.pooled(model.table(data["input_ids"]), mask)
        result = attacked(model, data, EmbeddingPGD((1e-6,), steps=2, unit="absolute"))
        assert result.clean_accuracy == 1.0
        assert result.accuracy(1e-6) == 0.0
