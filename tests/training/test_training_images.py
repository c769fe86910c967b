"""The Trainer on images: the stock run at ε = 0, the bare loop's gradient, presets, refusals."""

import json

import pytest
import torch
from tiny_training import arguments, assert_one_sentence
from torch import Tensor
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from nlp_adv import AdversarialTrainer, UserError
from nlp_adv.methods import METHODS, PGD, NoAttack, Scaled, bare, build
from nlp_adv.perturbation import LInfBall
from nlp_adv.sites.objective import image_objective

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
CLASSES = 3
TRAINED_ON_IMAGES = [n for n, one in METHODS.items() if not getattr(one, "text_only", False)]


def resnet() -> ResNetForImageClassification:
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=4,
        hidden_sizes=[4, 8],
        depths=[1, 1],
        layer_type="basic",
        num_labels=CLASSES,
    )
    return ResNetForImageClassification(config)


def vit() -> ViTForImageClassification:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        num_labels=CLASSES,
        hidden_dropout_prob=0.1,
    )
    return ViTForImageClassification(config)


MODELS = {"resnet": resnet, "vit": vit}
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def processor() -> ViTImageProcessor:
    return ViTImageProcessor(
        size={"height": 16, "width": 16}, image_mean=list(MEAN), image_std=list(STD)
    )


def rows(count: int = 16) -> list[dict[str, Tensor]]:
    x = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    z = (x - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    return [{"pixel_values": z[i], "labels": torch.tensor(i % CLASSES)} for i in range(count)]


def trainer(folder, model, *, kind=AdversarialTrainer, method=None, **flags):
    settings = {"method": method} if method is not None else {}
    return kind(
        model=model,
        args=arguments(folder, **flags),
        train_dataset=rows(),
        processing_class=processor(),
        **settings,
    )


def weights(model) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@each_model
def test_at_epsilon_zero_it_is_the_stock_trainer(tmp_path, model):
    """The same weights after two steps, running statistics included."""
    found = []
    for kind, settings in ((Trainer, {}), (AdversarialTrainer, {"method": None})):
        made = model()
        method = PGD(LInfBall(0.0), 0.0, steps=2) if kind is AdversarialTrainer else None
        trainer(tmp_path, made, kind=kind, **settings | {"method": method}).train()
        found.append(weights(made))
    torch.testing.assert_close(found[1], found[0], atol=0, rtol=0)


@each_model
def test_the_trainers_gradient_is_the_bare_loops(tmp_path, model):
    method = PGD(LInfBall(0.1), step_size=0.05, steps=2, random_start=False)
    seen = {}

    class Watching(AdversarialTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            torch.manual_seed(7)
            loss = super().training_step(model, inputs, num_items_in_batch)
            if not seen:
                seen["batch"] = {key: value.clone() for key, value in inputs.items()}
                seen["loss"] = loss
                seen["grads"] = {n: p.grad.clone() for n, p in model.named_parameters()}
            return loss

    trainer(tmp_path, model(), kind=Watching, method=method).train()
    bare_model = model().train()
    torch.manual_seed(7)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    report = method.step(image_objective(bare_model, seen["batch"], mean=mean, std=std, seed=0))
    torch.testing.assert_close(report.loss, seen["loss"])
    grads = {name: p.grad for name, p in bare_model.named_parameters()}
    torch.testing.assert_close(grads, seen["grads"])


@pytest.mark.parametrize("name", TRAINED_ON_IMAGES)
def test_every_method_trains_on_pixels_at_its_preset(tmp_path, name):
    """δ is as long as the preset's ε says, in pixels, and the weights move otherwise."""
    flags = {"freeat": {"adv_replays": 2}, "fgm_remembered": {"max_steps": 8}}.get(name, {})
    model = vit if name == "rdrop" else resnet  # which needs dropout
    one = trainer(tmp_path, model(), adv=name, **flags)
    one.train()
    logs = [line for line in one.state.log_history if "loss" in line]
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in logs)
    if name not in ("none", "rdrop", "sam"):
        lengths = [line["delta_norm"] for line in logs]
        assert 0 < max(lengths) <= 8 / 255 * (1 + 1e-5)
    plain = model()
    trainer(tmp_path, plain, kind=Trainer).train()
    pairs = zip(one.model.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs) == (name == "none")


@pytest.mark.parametrize("name", TRAINED_ON_IMAGES)
def test_presets_for_images_are_in_pixels(name):
    method = build(name, modality="image")
    assert not isinstance(method, Scaled)
    if hasattr(method, "ball"):
        assert method.ball == LInfBall(8 / 255)
    text = bare(build(name))
    if hasattr(text, "ball") and not hasattr(METHODS[name], "image_preset"):
        for length in ("step_size", "init_magnitude", "xi"):
            if hasattr(text, length):
                share = getattr(text, length) / text.ball.epsilon
                assert getattr(method, length) == pytest.approx(share * 8 / 255)


def test_given_settings_win_over_the_image_preset():
    method = build("pgd", modality="image", epsilon=0.1, steps=3)
    assert method.ball == LInfBall(0.1)
    assert method.step_size == pytest.approx(0.1 / 4)  # the preset's share of ε
    assert method.steps == 3
    assert build("none", modality="image") == NoAttack()


@pytest.mark.parametrize("name", ["fgm_matrix", "tavat"])
def test_methods_of_words_are_refused_on_images(tmp_path, name):
    with pytest.raises(ValueError, match="perturbs words"):
        build(name, modality="image")
    with pytest.raises(UserError, match="perturbs words") as caught:
        trainer(tmp_path, resnet(), adv=name)
    assert_one_sentence(caught.value)


def test_images_without_their_processor_are_refused(tmp_path):
    one = trainer(tmp_path, vit(), adv="pgd")
    one.processing_class = None
    with pytest.raises(UserError, match="processing_class=image_processor"):
        one.train()


def test_a_processor_that_did_not_make_the_images_is_refused(tmp_path):
    one = trainer(tmp_path, vit(), adv="pgd")
    one.processing_class.image_std = [0.01] * 3
    one.processing_class.image_mean = [5.0] * 3
    with pytest.raises(UserError, match="not the numbers they were normalised with"):
        one.train()


def test_freeat_carries_delta_to_a_smaller_batch(tmp_path):
    """The last batch of an epoch may hold fewer images; δ belongs to places in the batch."""
    flags = {"adv": "freeat", "adv_replays": 2, "num_train_epochs": 4, "max_steps": -1}
    one = trainer(tmp_path, resnet(), per_device_train_batch_size=3, **flags)
    one.train()
    assert one.state.global_step == 2 * (16 // 3) * 2


def test_accumulated_micro_batches_are_the_whole_batch(tmp_path):
    """On a model without BatchNorm and dropout, from a start that batching does not change."""
    method = PGD(LInfBall(0.1), step_size=0.05, steps=2, random_start=False)
    found = []
    for size, steps in ((8, 1), (4, 2)):
        model = vit().double()
        model.config.hidden_dropout_prob = 0.0
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        data = [{**row, "pixel_values": row["pixel_values"].double()} for row in rows()]
        one = AdversarialTrainer(
            model=model,
            args=arguments(
                tmp_path,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=steps,
                max_steps=1,
                adv_mend_loss_scaling=True,
            ),
            train_dataset=data,
            processing_class=processor(),
            method=method,
        )
        one.train()
        found.append(weights(model))
    torch.testing.assert_close(found[0], found[1], atol=1e-9, rtol=0)


def test_the_method_is_written_beside_the_weights_in_pixels(tmp_path):
    one = trainer(tmp_path, resnet(), adv="trades")
    one.train()
    one.save_model()
    written = json.loads((tmp_path / "adversarial_config.json").read_text(encoding="utf-8"))
    assert written["method"] == "trades"
    assert written["unit"] == "absolute"
    assert written["epsilon"] == pytest.approx(8 / 255)
