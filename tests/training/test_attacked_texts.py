"""Texts attacked while a model is trained: which, when, resumed, by several processes."""

import copy
import logging
import random
import shutil

import attacked_runs
import pytest
import torch
from attacked_runs import ROWS, TABLE, TOKENIZER, data, model, texts, trainer
from datasets import Dataset
from forked import found_by_two
from tiny_training import distance
from transformers import Trainer, TrainerCallback

from nlp_adv import AdversarialTrainer, UserError
from nlp_adv.attacks.words.attacks import A2T
from nlp_adv.attacks.words.attacks.build import Resources, build_engine
from nlp_adv.attacks.words.encoding import Splicer
from nlp_adv.attacks.words.engine import Text
from nlp_adv.attacks.words.protocols import Protocol, protocol_named
from nlp_adv.attacks.words.victim import Victim

OTHER = TABLE.from_mapping({"plot": ["story"]})


class Watch(TrainerCallback):
    """The model and the places as each epoch begins, after the attack."""

    def __init__(self, train):
        self.train, self.seen = train, []

    def on_epoch_begin(self, args, state, control, **more):
        self.seen.append((copy.deepcopy(more["model"]), list(self.train._found)))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run with an attack at every second epoch, a few checkpoints, and what was seen of it."""
    train = texts(every=2)
    run = trainer(tmp_path_factory.mktemp("run"), train, save_strategy="steps", save_steps=9)
    watch = Watch(train)
    run.add_callback(watch)
    run.train()
    return run, train, watch.seen


def by_hand(victim, rows, epoch, seed=0):
    """What the attack makes of drawn rows, one after the other, by an engine of its own."""
    splicer = Splicer(TOKENIZER, 16)
    resources = Resources(neighbours=TABLE)
    engine = build_engine(Victim(victim, TOKENIZER), splicer, protocol_named("default"), resources)
    labels = [row["label"] for row in ROWS]
    found = []
    for row in rows:
        (one,) = engine.run(A2T(TABLE), [Text(row, ROWS[row]["text"], labels[row])])
        found.append((row, one.adversarial if one.outcome == "fooled" else None))
    return found


class TestWhatIsTrainedOn:
    def test_places_are_what_the_attack_makes_of_the_drawn_rows(self, straight):
        _, train, seen = straight
        for epoch in (0, 1, 3):
            victim, places = seen[epoch]
            drawn = random.Random(f"0/{epoch}").sample(range(len(ROWS)), train.places)
            assert [row for row, _ in places] == drawn
            expected = [(row, None) for row in drawn] if epoch == 0 else None
            assert places == (expected or by_hand(victim, drawn, epoch))
        assert seen[2][1] == seen[1][1]  # until the next attack
        assert any(text for _, text in seen[3][1])

    def test_rows_as_a_collator_takes_them(self, straight):
        _, train, seen = straight
        assert len(train) == len(ROWS) + train.places == 72
        for place, (row, text) in enumerate(seen[-1][1]):
            got = train[len(ROWS) + place]
            assert got["labels"] == ROWS[row]["label"]
            assert got["input_ids"] == TOKENIZER(text or ROWS[row]["text"])["input_ids"]
        assert train[5]["input_ids"] == TOKENIZER(ROWS[5]["text"])["input_ids"]

    @pytest.mark.parametrize("part", ["first", "second"])
    def test_the_attacked_text_of_a_pair(self, tmp_path, part):
        before = [f"{row['text']} today" for row in reversed(ROWS)]
        rows = data().rename_column("text", "text2").add_column("text1", before)
        protocol = Protocol(name="x", part=part)
        train = texts(rows=rows, protocol=protocol, share=1.0, start_epoch=0)
        run = trainer(tmp_path, train, num_train_epochs=1)
        run.train()
        changed = [(place, row, text) for place, (row, text) in enumerate(train._found) if text]
        assert changed
        for place, row, text in changed:
            pair = (text, rows[row]["text2"]) if part == "first" else (rows[row]["text1"], text)
            want = TOKENIZER(*pair, truncation=True, max_length=16)
            assert train[len(rows) + place]["input_ids"] == want["input_ids"]

    def test_an_attack_leaves_nothing_behind(self, tmp_path):
        train = texts(start_epoch=0)
        run = trainer(tmp_path, train)
        begun = run.callback_handler.on_train_begin
        run.state.num_train_epochs, run.state.epoch = 1, 0
        before = copy.deepcopy(run.model.state_dict())
        modes = [module.training for module in run.model.modules()]
        state = torch.get_rng_state(), random.getstate()
        begun(run.args, run.state, run.control)
        run.callback_handler.on_epoch_begin(run.args, run.state, run.control)
        assert any(text for _, text in train._found)
        assert torch.equal(state[0], torch.get_rng_state())
        assert state[1] == random.getstate()
        assert distance(run.model.state_dict(), before) == 0
        assert [module.training for module in run.model.modules()] == modes
        assert all(one.grad is None for one in run.model.parameters())
        assert not any(module._forward_hooks for module in run.model.modules())

    def test_other_epochs_have_other_edits(self, tmp_path):
        """Of the same text too: a letter once misspelt in one way would be learnt by heart."""
        train = texts("deepwordbug", share=1.0, start_epoch=0)
        run = trainer(tmp_path, train, learning_rate=0.0, num_train_epochs=2)
        watch = Watch(train)
        run.add_callback(watch)
        run.train()
        first, second = (dict(places) for _, places in watch.seen)
        assert any(first[row] != second[row] for row in first)


@pytest.mark.fault("D2")
class TestResuming:
    @pytest.mark.parametrize("step", [9, 18, 27, 36, 45, 63])
    def test_the_same_run(self, straight, tmp_path, step):
        """In the middle of an epoch, at its end, before the first attack, between two."""
        run, train, _ = straight
        place = tmp_path / f"checkpoint-{step}"
        shutil.copytree(f"{run.args.output_dir}/checkpoint-{step}", place)
        again = texts(every=2)
        other = trainer(tmp_path, again, save_strategy="steps", save_steps=9)
        other.train(resume_from_checkpoint=str(place))
        assert distance(other.model.state_dict(), run.model.state_dict()) == 0
        assert again._found == train._found
        logs = [
            [{k: v for k, v in one.items() if "words" in k} for one in r.state.log_history]
            for r in (run, other)
        ]
        assert logs[0] == logs[1]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"attack": "deepwordbug"}, "was trained with .*'a2t'"),
            ({"share": 0.25}, "was trained with .*0.5"),
            ({"every": 1}, "was trained with"),
            (
                {"resources": Resources(neighbours=TABLE.from_mapping({"plot": ["story"]}))},
                "another",
            ),
        ],
    )
    def test_another_run_is_refused(self, straight, tmp_path, change, words):
        place = f"{straight[0].args.output_dir}/checkpoint-27"
        with pytest.raises(UserError, match=words):
            trainer(tmp_path, texts(**{"every": 2, **change})).train(resume_from_checkpoint=place)

    def test_with_and_without(self, straight, tmp_path):
        run, _, _ = straight
        rows = [dict(texts()[0])] * 72
        plain = AdversarialTrainer(model=model(), args=run.args, train_dataset=rows)
        with pytest.raises(UserError, match="this run with no attack on words"):
            plain.train(resume_from_checkpoint=f"{run.args.output_dir}/checkpoint-27")
        args = copy.copy(run.args)
        args.output_dir, args.max_steps = str(tmp_path), 9
        AdversarialTrainer(model=model(), args=args, train_dataset=rows).train()
        with pytest.raises(UserError, match="was trained with no attack on words"):
            trainer(tmp_path, texts()).train(resume_from_checkpoint=f"{tmp_path}/checkpoint-9")


class TestWhatIsSaid:
    def test_the_log_counts(self, straight):
        run, _, seen = straight
        logs = [one for one in run.state.log_history if "words_drawn" in one]
        assert [one["epoch"] for one in logs] == [1, 3]
        for one, epoch in zip(logs, (1, 3), strict=True):
            victim, places = seen[epoch]
            rows = TOKENIZER(
                [ROWS[r]["text"] for r, _ in places], padding=True, return_tensors="pt"
            )
            right = victim.eval()(**rows).logits.argmax(1) == torch.tensor(
                [ROWS[row]["label"] for row, _ in places]
            )
            assert one["words_drawn"] == 24
            assert one["words_attacked"] == int(right.sum())
            assert one["words_fooled"] == sum(text is not None for _, text in places)

    def test_an_attack_that_finds_nothing_is_warned_of(self, tmp_path, caplog):
        nothing = Resources(neighbours=TABLE.from_mapping({"drum": ["gong"]}))
        train = texts(resources=nothing)
        with caplog.at_level(logging.WARNING):
            trainer(tmp_path, train, num_train_epochs=2).train()
        (warning,) = train.warnings
        assert "fooled the model with none" in warning
        assert warning in caplog.messages

    def test_the_files_beside_the_model_say_it(self, straight, tmp_path):
        run, train, _ = straight
        assert run._description()["words"] == train.description()
        assert train.description()["attack"] == "a2t"
        assert train.warnings == []


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"attack": "nosuch"}, "no attack 'nosuch'"),
            ({"attack": "static"}, "finds no texts"),
            ({"resources": None}, "--neighbours"),
            ({"share": 0.0}, r"\(0, 1\]"),
            ({"share": 1.5}, r"\(0, 1\]"),
            ({"every": 0}, "every 0 epochs"),
            ({"start_epoch": -1}, "after -1"),
            ({"protocol": "li2021"}, "--encoder"),
        ],
        ids=str,
    )
    def test_numbers_and_names(self, options, words):
        with pytest.raises(UserError, match=words):
            texts(**options)

    def test_labels_that_are_no_classes(self):
        with pytest.raises(UserError, match="class numbers in the column 'label'"):
            texts(rows=Dataset.from_list([{"text": "a", "label": 0.5}]))

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"num_train_epochs": 1}, "begin after 1"),
            ({"dataloader_num_workers": 1, "dataloader_persistent_workers": True}, "outlive"),
        ],
    )
    def test_runs(self, tmp_path, arguments, words):
        with pytest.raises(UserError, match=words):
            trainer(tmp_path, texts(), **arguments).train()

    def test_texts_that_could_grow_beyond_the_model(self, tmp_path):
        """A misspelt word has more tokens; the data alone would fit."""
        with pytest.raises(UserError, match="16 tokens, and attacked texts may grow to the 64"):
            trainer(tmp_path, texts(max_length=64)).train()

    def test_other_data(self, tmp_path):
        run = trainer(tmp_path, texts())
        run.train_dataset = texts()
        with pytest.raises(UserError, match="another one than is attacked"):
            run.train()


def test_a_stock_trainer_will_do(straight, tmp_path):
    run, _, _ = straight
    train = texts(every=2)
    stock = Trainer(model(), run.args, run.data_collator, train)
    train.attack_with(stock)
    stock.train()
    assert distance(stock.model.state_dict(), run.model.state_dict()) == 0


@pytest.mark.slow
def test_two_processes_attack_their_shares(tmp_path):
    first, second = found_by_two(attacked_runs.found, tmp_path)
    one = attacked_runs.found(tmp_path / "one", batch=8)
    assert (one["processes"], first["processes"]) == (1, 2)
    assert first["found"] == second["found"] == one["found"]
    assert any(text for _, text in one["found"])
    assert first["logs"] == one["logs"]
    assert distance(first["weights"], second["weights"]) == 0
    assert distance(first["weights"], one["weights"]) < 1e-9
