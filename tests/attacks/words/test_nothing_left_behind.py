"""After an attack the model and all random numbers are as before; also after an exception."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from toy_attacks import ATTACKS, attack_named, bag_of_words, flips_of, masked_lm
from toy_victims import SENTENCES, bert, engine_of, right_texts, tokenizer_of

from nlp_adv.attacks.words.engine import Attack, Engine, Text
from nlp_adv.attacks.words.example import FillRequest, SimilarityRequest
from nlp_adv.attacks.words.language_models import MaskedLanguageModel, Similarity
from nlp_adv.attacks.words.protocols import Protocol

PROTOCOL = Protocol(
    name="all", candidates=5, min_similarity=0.2, same_part_of_speech=True, stop_words="none"
)


def state(model: nn.Module) -> dict:
    """All that an attack could leave behind in a model."""
    return {
        "training": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "tensor hooks": [len(p._backward_hooks or ()) for p in model.parameters()],
        "weights": {name: value.tolist() for name, value in model.state_dict().items()},
    }


def random_state() -> tuple:
    numpy_state = np.random.get_state()
    return (
        random.getstate(),
        (numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]),
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    )


def patchy(model: nn.Module) -> nn.Module:
    """In a state that no blanket `train()` or `requires_grad_()` could restore; with dropout."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    model.train()
    layer = model.bert.encoder.layer[0]
    layer.attention.eval()
    layer.intermediate.dense.weight.requires_grad_(False)
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    layer.output.dense.weight.grad = torch.ones_like(layer.output.dense.weight)
    return model


def on_bert(name: str) -> Attack:
    return flips_of(bert()) if name == "hotflip" else attack_named(name)


class Setting:
    """An engine with all kinds of help, its models, and texts to attack."""

    def __init__(self) -> None:
        self.victim = patchy(bert())
        self.helper = patchy(masked_lm()._runner.model)
        lm = MaskedLanguageModel(self.helper, masked_lm().tokenizer, max_length=40)
        self.engine: Engine = engine_of(
            self.victim, PROTOCOL, tagger=lambda words: ["X"] * len(words)
        )
        self.engine.oracles = {FillRequest: lm, SimilarityRequest: Similarity(bag_of_words)}
        self.texts: list[Text] = right_texts(texts=SENTENCES[:4])

    def state(self) -> tuple:
        return state(self.victim), state(self.helper), random_state()


@pytest.mark.parametrize("name", ATTACKS)
class TestAllAttacks:
    def test_after_an_attack(self, name):
        setting = Setting()
        before = setting.state()
        records = list(setting.engine.run(on_bert(name), setting.texts))
        assert any(record.words_changed for record in records)
        assert setting.state() == before

    def test_dropout_is_off(self, name):
        """The same records as those of the model in eval mode without dropout."""
        setting, calm = (
            Setting(),
            engine_of(bert(), PROTOCOL, tagger=lambda words: ["X"] * len(words)),
        )
        lm = {FillRequest: masked_lm(), SimilarityRequest: Similarity(bag_of_words)}
        calm.oracles = lm
        attack = on_bert(name)
        assert list(setting.engine.run(attack, setting.texts)) == list(
            calm.run(attack, setting.texts)
        )


class TestInTheMiddle:
    @pytest.mark.parametrize("at", [1, 3, 5])
    @pytest.mark.parametrize("name", ["hotflip", "a2t"])
    def test_an_exception_inside_the_victim(self, name, at):
        """In the first answers, behind the look that counts calls in a gradient, or later."""
        setting = Setting()
        calls = []

        def fail(*_):
            calls.append(1)
            if len(calls) == at:
                raise RuntimeError("broken inside")

        setting.victim.classifier.register_forward_pre_hook(fail)
        before = setting.state()
        with pytest.raises(RuntimeError, match="broken inside"):
            list(setting.engine.run(on_bert(name), setting.texts))
        assert len(calls) == at
        assert setting.state() == before

    @pytest.mark.parametrize("name", ["bae", "bert-attack"])
    def test_an_exception_inside_a_helper(self, name):
        setting = Setting()

        def fail(*_):
            raise RuntimeError("broken inside")

        setting.helper.cls.register_forward_hook(fail)
        before = setting.state()
        with pytest.raises(RuntimeError, match="broken inside"):
            list(setting.engine.run(on_bert(name), setting.texts))
        assert setting.state() == before

    def test_an_exception_in_the_texts(self):
        setting = Setting()

        def texts():
            yield from setting.texts[:2]
            raise RuntimeError("no more")

        before = setting.state()
        setting.engine.live = 1
        with pytest.raises(RuntimeError, match="no more"):
            list(setting.engine.run(on_bert("a2t"), texts()))
        assert setting.state() == before

    def test_a_run_that_is_given_up(self):
        setting = Setting()
        before = setting.state()
        run = setting.engine.run(on_bert("a2t"), setting.texts)
        next(run)
        assert not setting.victim.training
        run.close()
        assert setting.state() == before

    def test_an_interrupt(self):
        setting = Setting()

        def stop(*_):
            raise KeyboardInterrupt

        setting.victim.classifier.register_forward_hook(stop)
        before = setting.state()
        with pytest.raises(KeyboardInterrupt):
            list(setting.engine.run(on_bert("deletion"), setting.texts))
        assert setting.state() == before


def test_tokenizers_keep_their_settings():
    """Truncation and padding of a fast tokenizer are settings of its own."""
    tokenizer = tokenizer_of("wordpiece")
    before = (
        tokenizer.padding_side,
        tokenizer("dull", max_length=2, truncation=True),
        len(tokenizer),
    )
    list(engine_of().run(on_bert("a2t"), right_texts(texts=SENTENCES[:2])))
    after = (
        tokenizer.padding_side,
        tokenizer("dull", max_length=2, truncation=True),
        len(tokenizer),
    )
    assert before == after
    assert len(tokenizer(SENTENCES[0])["input_ids"]) > 5
