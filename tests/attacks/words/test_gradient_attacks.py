"""Gradients against autograd by hand, the order they give, and HotFlip's beam search."""

from dataclasses import replace

import pytest
import torch
from naive_search import attackable, put_together, taken_apart
from torch import Tensor, nn
from toy_attacks import attack_named, flips_of, neighbours
from toy_victims import (
    FREE,
    SENTENCES,
    BagOfTokens,
    attacked,
    bert,
    engine_of,
    light,
    right_texts,
    tokenizer_of,
)

from nlp_adv.attacks.words.attacks import A2T
from nlp_adv.attacks.words.encoding import Row
from nlp_adv.attacks.words.example import Example, Steps
from nlp_adv.attacks.words.importance import by_gradient
from nlp_adv.attacks.words.protocols import Protocol
from nlp_adv.attacks.words.words import in_the_case_of
from nlp_adv.errors import UserError

TWO = BagOfTokens(200, classes=2)  # the margin of two classes is linear where the model is
# Few words of the sentences are one token, most of those stop words.
ANY = Protocol(name="any word", stop_words="none")
ONE = replace(ANY, max_changed=0.01)


def finished(engine, steps: Steps):
    """Run a generator to its end, whatever it asks."""
    oracles, answer = engine._oracles(), None
    while True:
        try:
            request = steps.send(answer)
        except StopIteration as end:
            return end.value
        (answer,) = oracles[type(request)]([request])


def example_of(engine, text) -> Example:
    (example,) = engine._examples(attack_named("textfooler"), [text])
    (example.original,) = finished(engine, example.ask([example.words]))
    return example


def score(z: Tensor, label: int, target: int | None) -> Tensor:
    if target is None:
        return torch.cat([z[:label], z[label + 1 :]]).max() - z[label]
    return z[target] - torch.cat([z[:target], z[target + 1 :]]).max()


def by_hand(model: nn.Module, row: Row, label: int, target: int | None = None) -> Tensor:
    """∇ of the score by the word embeddings of one row, straight from autograd."""
    table = model.get_input_embeddings()
    point = table.weight.detach()[list(row.ids)].requires_grad_()
    if isinstance(model, BagOfTokens):
        z = model.logits(point[None], torch.ones(1, len(point)))[0]
    else:
        types = torch.tensor([row.types])
        z = model(inputs_embeds=point[None], token_type_ids=types)["logits"][0]
    (grad,) = torch.autograd.grad(score(z, label, target), point)
    return grad


class TestGradients:
    @pytest.mark.parametrize("model", [bert(), bert(1, layers=2), BagOfTokens(200, linear=False)])
    @pytest.mark.parametrize("budget", [1, 40, 4096])
    def test_like_autograd(self, model, budget):
        engine = engine_of(model, tokens_per_batch=budget)
        rows = engine.splicer.whole([(sentence, None) for sentence in SENTENCES])
        labels = [n % 3 for n in range(len(rows))]
        for row, label, grad in zip(
            rows, labels, engine.victim.gradients(rows, labels), strict=True
        ):
            expected = by_hand(model, row, label)
            assert grad.shape == expected.shape
            assert torch.allclose(grad, expected, atol=1e-10)
            assert expected.abs().max() > 1e-3

    def test_padding_on_the_left(self):
        model = BagOfTokens(500, linear=False)
        engine = engine_of(model, kind="gpt2")
        rows = engine.splicer.whole([(sentence, None) for sentence in SENTENCES])
        for row, grad in zip(rows, engine.victim.gradients(rows, [0] * len(rows)), strict=True):
            assert torch.allclose(grad, by_hand(model, row, 0), atol=1e-10)

    @pytest.mark.parametrize("target", [None, 0, 1, 2])
    def test_of_the_score_that_the_attack_raises(self, target):
        engine = engine_of(target=target)
        for text in right_texts(texts=SENTENCES[:4]):
            example = example_of(engine, text)
            grad = finished(engine, example.gradient(example.words))
            expected = by_hand(light(), example.template.original, text.label, target)
            assert torch.allclose(grad, expected, atol=1e-10)
            assert example.queries == 2

    def test_none_where_the_budget_is_spent(self):
        engine = engine_of(protocol=replace(FREE, queries=1))
        example = example_of(engine, right_texts()[0])
        grad = finished(engine, example.gradient(example.words))
        assert not grad.any()
        assert example.spent
        assert (example.queries, example.forwards) == (1, 1)


class TestOrder:
    @pytest.mark.parametrize("target", [None, 1])
    def test_mean_length_over_the_tokens_of_a_word(self, target):
        engine = engine_of(target=target)
        for text in right_texts():
            example = example_of(engine, text)
            places = example.constraints.places(example.words)
            order = finished(engine, by_gradient(example, places))
            encoded = tokenizer_of("wordpiece")(text.text)
            lengths = by_hand(light(), example.template.original, text.label, target).norm(dim=1)
            # The pre-tokenizer cuts at "-" and "'" too, so words are found by their characters.
            means, at = {}, 0
            for place, (gap, word) in enumerate(
                zip(example.words.gaps, example.words.words, strict=False)
            ):
                at += len(gap)
                tokens = {encoded.char_to_token(c) for c in range(at, at + len(word))} - {None}
                means[place] = lengths[sorted(tokens)].mean().item()
                at += len(word)
            assert order == sorted(places, key=lambda place: -means[place])

    @pytest.mark.fault("E6")
    def test_it_is_not_the_norm_of_the_released_code(self):
        """The L1 norm of a word's mean gradient ranks otherwise, as A2T's docstring says."""
        engine, differ = engine_of(), 0
        for text in right_texts():
            example = example_of(engine, text)
            places = example.constraints.places(example.words)
            grad = by_hand(light(), example.template.original, text.label)
            spans = example.template.spans(example.words)
            theirs = {p: grad[list(spans[p])].mean(0).norm(p=1).item() for p in places}
            order = finished(engine, by_gradient(example, places))
            differ += order != sorted(places, key=lambda place: -theirs[place])
        assert differ > 2
        assert "L1 norm of the mean" in A2T.__doc__

    def test_one_query_for_all_words(self):
        texts = right_texts()
        for record in attacked(engine_of(), A2T(type(neighbours())({})), texts):
            assert (record.queries, record.forwards) == (2, 2)
            assert record.outcome == "robust"


def single_flips(attack, text: str) -> dict[str, tuple[int, str]]:
    """All texts with one word of one token replaced by one of the vocabulary."""
    words, gaps = taken_apart(text)
    known = attack.vocabulary.place
    return {
        put_together([*words[:i], written, *words[i + 1 :]], gaps): (i, other)
        for i in attackable(words, ANY)
        for other in known
        for written in [in_the_case_of(words[i], other)]
        if words[i].lower() in known and written != words[i]
    }


def scores_of(engine, texts: list[str], label: int, target: int | None) -> list[float]:
    rows = engine.splicer.whole([(text, None) for text in texts]) if texts else []
    return [score(z, label, target).item() for z in engine.victim.logits(rows)] if rows else []


class TestHotFlip:
    @pytest.mark.parametrize("target", [None, 0])
    def test_best_single_flip_of_a_linear_model(self, target):
        """There the first-order estimate is exact."""
        attack = flips_of(TWO, tried=1, beam=1)
        engine = engine_of(TWO, ONE, target=target)
        compared = 0
        for text in right_texts(TWO):
            if text.label == target:
                continue
            (record,) = attacked(engine, attack, [text])
            flips = list(single_flips(attack, text.text))
            scores = scores_of(engine, [text.text, *flips], text.label, target)
            best = max(range(len(scores)), key=scores.__getitem__)
            assert record.adversarial == [text.text, *flips][best]
            assert (record.outcome == "fooled") == (max(scores) > 0)
            assert record.queries == 3  # the original, one gradient, one flip
            compared += best > 0
        assert compared >= 3

    @pytest.mark.parametrize("beam", [1, 3])
    @pytest.mark.parametrize("model", [bert(), light()], ids=["bert", "light"])
    def test_like_a_naive_beam_search(self, model, beam):
        """With a beam of 1 that is greedy search."""
        attack = flips_of(model, tried=6, beam=beam)
        engine = engine_of(model, ANY)
        vectors, known = attack.vocabulary.vectors.double(), attack.vocabulary.place
        rounds = 0
        for text in right_texts(model, SENTENCES[:6]):
            words, gaps = taken_apart(text.text)
            kept = [(scores_of(engine, [text.text], text.label, None)[0], words)]
            original, done = words, []
            for _ in words:
                estimates: dict[str, tuple[float, list[str]]] = {}
                for _, words in kept:
                    if words in done:
                        continue
                    done.append(words)
                    current = put_together(words, gaps)
                    (row,) = engine.splicer.whole([(current, None)])
                    grad = by_hand(model, row, text.label)
                    encoded = tokenizer_of("wordpiece")(current)
                    own = []
                    for flip, (i, other) in single_flips(attack, current).items():
                        if words[i] != original[i]:
                            continue
                        start = sum(map(len, gaps[: i + 1])) + sum(map(len, words[:i]))
                        token = encoded.char_to_token(start)
                        change = vectors[known[other]] - vectors[known[words[i].lower()]]
                        gain = float(grad[token] @ change)
                        if gain > 0:
                            own.append((gain, flip, taken_apart(flip)[0]))
                    own.sort(key=lambda one: -one[0])
                    for gain, flip, flipped in own[:6]:
                        if gain > estimates.get(flip, (0.0, []))[0]:
                            estimates[flip] = (gain, flipped)
                tried = sorted(estimates.items(), key=lambda one: -one[1][0])[:6]
                asked = scores_of(engine, [flip for flip, _ in tried], text.label, None)
                found = [(s, w) for s, (_, (_, w)) in zip(asked, tried, strict=True)]
                ranked = sorted([*kept, *found], key=lambda one: -one[0])[:beam]
                if ranked == kept:
                    break
                kept, rounds = ranked, rounds + 1
                if kept[0][0] > 0:
                    break
            (record,) = attacked(engine, attack, [text])
            assert record.adversarial == put_together(kept[0][1], gaps)
            assert (record.outcome == "fooled") == (kept[0][0] > 0)
        assert rounds > 6

    def test_no_text_twice(self):
        """Two flips in either order are one text: asked once, and one place in the beam."""
        records = attacked(
            engine_of(bert(2), ANY), flips_of(bert(2), beam=4, tried=16), right_texts(bert(2))
        )
        assert max(record.words_changed for record in records) > 2
        for record in records:
            assert record.queries == record.forwards

    def test_least_cosine(self):
        attack = flips_of(light(), tried=4)
        near = replace(attack, min_cosine=0.3)
        vectors, known = attack.vocabulary.vectors, attack.vocabulary.place
        unit = nn.functional.normalize(vectors, dim=1)
        cosines: dict[str, list[float]] = {"any": [], "near": []}
        for name, one in (("any", attack), ("near", near)):
            for record in attacked(engine_of(protocol=ANY), one, right_texts()):
                before, after = taken_apart(record.original)[0], taken_apart(record.adversarial)[0]
                pairs = zip(before, after, strict=True)
                changed = [(a.lower(), b.lower()) for a, b in pairs if a != b]
                cosines[name] += [float(unit[known[a]] @ unit[known[b]]) for a, b in changed]
        assert min(cosines["any"]) < 0.3 <= min(cosines["near"]) + 1e-6

    def test_nothing_to_flip(self):
        table = right_texts(texts=["tuesday camerawork", "!", "it is the"])
        for record in attacked(engine_of(), flips_of(light()), table):
            assert (record.outcome, record.words_changed) == ("robust", 0)
            assert record.queries == 1


class TestVocabulary:
    @pytest.mark.parametrize("kind", ["wordpiece", "roberta", "unigram"])
    def test_words_of_one_token_and_their_embeddings(self, kind):
        tokenizer = tokenizer_of(kind)
        model = BagOfTokens(len(tokenizer) + 3)
        vocabulary = flips_of(model, kind).vocabulary
        assert len(vocabulary.words) > 5
        assert len(set(vocabulary.words)) == len(vocabulary.words) == len(vocabulary.vectors)
        for word, vector in zip(vocabulary.words, vocabulary.vectors, strict=True):
            (token,) = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
            assert torch.equal(vector, model.table.weight[token].detach().float())
            assert word.isalpha()
            assert word.islower()
            assert vocabulary.words[vocabulary.place[word]] == word
        assert "boring" in vocabulary.place
        assert "camerawork" not in vocabulary.place

    def test_no_matrix_with_a_row_a_token(self):
        for model in (BagOfTokens(20), Hashed(200)):
            with pytest.raises(UserError, match="hotflip"):
                flips_of(model)


class Hashed(BagOfTokens):
    """An embedding without a table."""

    def get_input_embeddings(self) -> nn.Module:
        return nn.Identity()
