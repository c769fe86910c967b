"""The victim: batches under a budget, results in order, memory that ends, answers it cannot use."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from toy_attacks import Greedy, Table, neighbours
from toy_victims import SENTENCES, BagOfTokens, bert, engine_of, tokenizer_of

from nlp_adv.attacks.words.encoding import Row, Splicer
from nlp_adv.attacks.words.engine import Text
from nlp_adv.attacks.words.example import Goal
from nlp_adv.attacks.words.victim import Victim
from nlp_adv.errors import UserError

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=20)


def rows_of(lengths: list[int]) -> list[Row]:
    """Rows of different ids, so that every one of them has its own logits."""
    return [
        Row(tuple(5 + (7 * n + 3 * k) % 180 for k in range(m)), (0,) * m)
        for n, m in enumerate(lengths)
    ]


class Watched(nn.Module):
    """A model that keeps the shapes of its batches and refuses those of more than `most` rows."""

    def __init__(self, model: nn.Module, most: int = 10**6):
        super().__init__()
        self.model, self.most = model, most
        self.shapes: list[tuple[int, int]] = []
        self.refused = 0

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def forward(self, **batch):
        size = tuple(batch["input_ids"].shape)
        if size[0] > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError("out of memory")
        self.shapes.append(size)
        assert all(tuple(value.shape[: value.ndim]) == size for value in _columns(batch))
        return self.model(**batch)


def _columns(batch: dict[str, Tensor]) -> list[Tensor]:
    return [value for key, value in batch.items() if key != "labels"]


def alone(model: nn.Module, row: Row) -> Tensor:
    """One row without padding, straight through the model."""
    ids = torch.tensor([row.ids])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids))["logits"][0]


class TestBatches:
    @given(LENGTHS, st.integers(1, 80))
    def test_budget_order_and_counters(self, lengths, budget):
        rows = rows_of(lengths)
        model = Watched(bert())
        victim = Victim(model, tokenizer_of("wordpiece"), budget)
        logits = victim.logits(rows)
        expected = torch.stack([alone(bert(), row) for row in rows])
        assert torch.allclose(logits, expected, atol=1e-10)
        assert all(n * t <= budget or n == 1 for n, t in model.shapes)
        assert sum(n for n, _ in model.shapes) == len(rows)
        # No smaller number of batches of this order holds them: the next row never had room.
        widths = sorted(lengths, reverse=True)
        for (n, t), (_, later) in zip(model.shapes, model.shapes[1:], strict=False):
            assert (n + 1) * t > budget
            assert later <= t
        assert model.shapes[0][1] == widths[0]
        work = victim.work
        assert work.forwards == len(rows)
        assert work.backwards == 0
        assert work.tokens == sum(lengths)
        assert work.padded == sum(n * t for n, t in model.shapes)
        assert work.batches == len(model.shapes)
        assert work.seconds > 0

    def test_gradients_are_counted_too(self):
        rows = rows_of([5, 3, 9])
        victim = Victim(bert(), tokenizer_of("wordpiece"), 10)
        victim.logits(rows[:1])
        grads = victim.gradients(rows, [0, 1, 2])
        assert [tuple(grad.shape) for grad in grads] == [(5, 16), (3, 16), (9, 16)]
        work = victim.work
        assert (work.forwards, work.backwards) == (1 + 3, 3)
        # 9 alone, then 5 and 3 in one batch of width 5.
        assert (work.tokens, work.padded, work.batches) == (5 + 17, 5 + 9 + 10, 1 + 2)

    def test_half_precision_comes_back_wide(self):
        model = BagOfTokens(200)
        rows = rows_of([4, 2])
        assert Victim(model, tokenizer_of("wordpiece")).logits(rows).dtype == torch.float64
        logits = Victim(model.bfloat16(), tokenizer_of("wordpiece")).logits(rows)
        assert logits.dtype == torch.float32
        assert logits.device.type == "cpu"

    def test_padding_on_the_left(self):
        tokenizer = tokenizer_of("gpt2")
        batch = Victim(bert(), tokenizer).padded([Row((7, 8, 9), ()), Row((5,), ())])
        pad = tokenizer.pad_token_id
        assert batch["input_ids"].tolist() == [[7, 8, 9], [pad, pad, 5]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
        assert "token_type_ids" not in batch

    def test_a_tokenizer_without_padding_is_refused(self):
        tokenizer = tokenizer_of("gpt2", vocab=20)
        tokenizer.pad_token = None
        try:
            with pytest.raises(UserError, match="pad_token"):
                Victim(bert(), tokenizer)
        finally:
            tokenizer.pad_token = tokenizer.eos_token

    def test_no_token_at_all(self):
        """A GPT-2 text whose only word is taken out; the model is asked about padding."""
        model = BagOfTokens(500)
        victim = Victim(model, tokenizer_of("gpt2"))
        (empty,) = Splicer(tokenizer_of("gpt2"), 40).whole([("", None)])
        assert empty.ids == ()
        (answer,) = victim.logits([empty])
        assert torch.isfinite(answer).all()
        other, again = victim.logits([Row((5, 6), ()), empty])
        assert torch.allclose(answer, again, atol=1e-12)
        assert torch.allclose(other, alone(model, Row((5, 6), ())), atol=1e-12)


class TestMemory:
    @pytest.mark.parametrize("most", [1, 2, 3, 5])
    def test_batches_shrink_until_they_fit(self, most, capsys):
        rows = rows_of([6, 2, 5, 5, 1, 6, 3, 4, 2])
        plain = Victim(bert(), tokenizer_of("wordpiece"), 64)
        model = Watched(bert(), most)
        victim = Victim(model, tokenizer_of("wordpiece"), 64)
        assert torch.allclose(victim.logits(rows), plain.logits(rows), atol=1e-10)
        labels = [n % 3 for n in range(len(rows))]
        pairs = zip(victim.gradients(rows, labels), plain.gradients(rows, labels), strict=True)
        assert all(torch.allclose(mine, theirs, atol=1e-10) for mine, theirs in pairs)
        assert model.refused > 0
        assert max(n for n, _ in model.shapes) <= most
        # The budget stays small: what did not fit once is not tried again.
        refused, seen = model.refused, len(model.shapes)
        victim.logits(rows)
        assert model.refused == refused
        assert len(model.shapes) > seen
        # Batches that did not fit are no work done.
        assert victim.work.forwards == 3 * len(rows)
        assert victim.work.tokens == 3 * sum(len(row.ids) for row in rows)

    @pytest.mark.parametrize("budget", [1, 64, 4096])
    def test_one_row_that_does_not_fit(self, budget):
        victim = Victim(Watched(bert(), 0), tokenizer_of("wordpiece"), budget)
        with pytest.raises(UserError, match="max_seq_length"):
            victim.logits(rows_of([6, 2, 5]))

    def test_other_errors_are_not_taken_for_memory(self):
        class Broken(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.zeros(1))

            def forward(self, **batch):
                raise RuntimeError("broken inside")

        with pytest.raises(RuntimeError, match="broken inside"):
            Victim(Broken(), tokenizer_of("wordpiece")).logits(rows_of([3]))


class Answering(nn.Module):
    """Any function of the logits of a bag of tokens."""

    def __init__(self, change, classes: int = 3):
        super().__init__()
        self.model = BagOfTokens(200, classes=classes)
        self.change = change

    def forward(self, input_ids, **batch):
        logits = self.model(input_ids, **batch)["logits"]
        return {"logits": self.change(logits, input_ids)}


class TestAnswers:
    @pytest.mark.parametrize("rows", [1, 5])
    @pytest.mark.parametrize("classes", [2, 3])
    def test_probabilities_are_noticed(self, rows, classes):
        model = Answering(lambda z, _: z.softmax(1), classes)
        with pytest.raises(UserError, match="probabilities"):
            Victim(model, tokenizer_of("wordpiece")).logits(rows_of([4] * rows))

    @pytest.mark.parametrize("change", ["log_softmax", "relu", "shifted"])
    def test_logits_of_any_scale_and_sign_are_not_taken_for_them(self, change):
        changes = {
            "log_softmax": lambda z, _: z.log_softmax(1),
            "relu": lambda z, _: z.relu() + 0.6,
            "shifted": lambda z, _: 1e-4 * z,
        }
        model = Answering(changes[change])
        logits = Victim(model, tokenizer_of("wordpiece")).logits(rows_of([4, 5, 6]))
        assert logits.shape == (3, 3)

    @pytest.mark.parametrize(
        "change",
        [lambda z, _: z[:, :1], lambda z, _: z[:, 0], lambda z, _: z[:, None].repeat(1, 4, 1)],
        ids=["regression", "no classes", "a token"],
    )
    def test_what_is_no_classifier_is_refused(self, change):
        with pytest.raises(UserError, match="classifier"):
            Victim(Answering(change), tokenizer_of("wordpiece")).logits(rows_of([4, 4]))


class TestNan:
    """A text for which the logits hold a nan is a wrong answer, and never the target."""

    def test_goal(self):
        nan, inf = torch.nan, torch.inf
        logits = torch.tensor([[2.0, 1, 0], [nan, 1, 0], [2, nan, 0], [inf, 1, 0], [0.5, 1, 0]])
        untargeted = Goal().judged(logits, 0)
        assert [reached for _, reached in untargeted] == [False, True, True, True, True]
        assert [score for score, _ in untargeted] == [-1, inf, inf, inf, 0.5]
        targeted = Goal(1).judged(logits, 0)
        assert [reached for _, reached in targeted] == [False, False, False, False, True]
        assert [score for score, _ in targeted] == [-1, -inf, -inf, -inf, 0.5]

    @pytest.mark.parametrize("target", [None, 1])
    def test_an_original_with_nan_is_skipped(self, target):
        model = Answering(lambda z, _: torch.full_like(z, torch.nan))
        texts = [Text(0, SENTENCES[0], 0), Text(1, SENTENCES[1], 2), Text(2, "!", 0)]
        engine = engine_of(model, target=target)
        records = list(engine.run(Greedy(neighbours()), texts))
        assert [record.outcome for record in records] == ["wrong"] * 3
        assert all(record.queries == 1 for record in records)

    def test_a_variant_with_nan_has_broken_the_model(self):
        (bad,) = tokenizer_of("wordpiece")("the", add_special_tokens=False)["input_ids"]

        def change(z: Tensor, ids: Tensor) -> Tensor:
            constant = torch.tensor([2.0, 0, 0], dtype=z.dtype).expand_as(z)
            return torch.where((ids == bad).any(1, keepdim=True), torch.nan, constant)

        engine = engine_of(Answering(change))
        text = Text(0, "dull music", 0)
        table = Table({"dull": ["boring", "the", "on"], "music": ["on"]})
        (record,) = engine.run(Greedy(table), [text])
        assert (record.outcome, record.adversarial) == ("fooled", "the music")
        (record,) = engine_of(Answering(change), target=1).run(Greedy(table), [text])
        assert (record.outcome, record.adversarial) == ("robust", "dull music")
