"""Bad inputs of all commands, as a table: what is typed, and what the one sentence must say.

In a command line, a word in braces stands for something good that the tests made, and the name of
a file or folder of `FILES` for something bad that is made for the case. Later flags win over
earlier ones, so a case begins with a good line and ends with what is wrong about it.
"""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

ROWS = [{"text": f"the plot is {word}", "label": word} for word in ("bad", "good")] * 3
BRIEF = "--max_steps 2 --per_device_train_batch_size 2 --save_strategy no --report_to none"

GOOD = {
    "train": f"--model_name_or_path {{model}} --train_file {{train}} --validation_file {{dev}} "
    f"--output_dir out --use_cpu --disable_tqdm true {BRIEF}",
    "demo": "--output_dir out --use_cpu --disable_tqdm true --max_train_samples 16 --compare_plain "
    f"false {BRIEF}",
    "attack": "--model_name_or_path {victim} --test_file {dev} --output_dir out --device cpu",
    "evaluate": "--model_name_or_path {victim} --test_file {dev} --output_dir out --device cpu",
    "sweep": "--model_name_or_path {model} --train_file {train} --validation_file {dev} --trials 1 "
    f"--attack_epsilons 0.1 --output_dir out --use_cpu --disable_tqdm true {BRIEF}",
    "report": "{evaluation} --output_dir out",
    "compare": "{recipe} --output_dir out",
    "train image": "--modality image --dataset_name {digits} --output_dir out --use_cpu "
    f"--disable_tqdm true --validation_examples 4 {BRIEF}",
    "attack image": "--modality image --model_name_or_path {images} --dataset_name {digits} "
    "--output_dir out --device cpu --steps 2",
    "bare": "",
}


def text(content: str) -> Callable[[Path, dict], None]:
    return lambda path, given: path.write_text(content, encoding="utf-8")


def rows(*rows: dict) -> Callable[[Path, dict], None]:
    return text("".join(json.dumps(row) + "\n" for row in rows))


def model(change: Callable[[Path], object], of: str = "victim") -> Callable[[Path, dict], None]:
    """A copy of a good model, damaged."""

    def make(path: Path, given: dict) -> None:
        shutil.copytree(given[of], path)
        change(path)

    return make


def edited(file: str, **values: object) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        content.update(values)
        content = {key: value for key, value in content.items() if value != "gone"}
        (folder / file).write_text(json.dumps(content))

    return edit


def cut(file: str, size: int = 100) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:size])


def idx(*shape: int, values: bytes = b"") -> bytes:
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    return header + values


def digits_without(name: str) -> Callable[[Path, dict], None]:
    def make(path: Path, given: dict) -> None:
        shutil.copytree(given["digits"], path)
        (path / name).unlink()

    return make


def digits_with(name: str, content: bytes) -> Callable[[Path, dict], None]:
    def make(path: Path, given: dict) -> None:
        shutil.copytree(given["digits"], path)
        (path / name).write_bytes(content)

    return make


def recipe(**change: object) -> Callable[[Path, dict], None]:
    def make(path: Path, given: dict) -> None:
        content = json.loads(Path(given["recipe"]).read_text()) | change
        path.write_text(json.dumps({k: v for k, v in content.items() if v != "gone"}))

    return make


FILES: dict[str, Callable[[Path, dict], None]] = {
    # data
    "empty.jsonl": text(""),
    "broken.jsonl": text('{"text": "a", "label": 0}\n{"text": "b", \n'),
    "list.json": text("[1, 2]"),
    "numbers.jsonl": rows({"text": 1, "label": 0}, {"text": 2, "label": 1}),
    "nolabel.jsonl": rows({"text": "a"}, {"text": "b"}),
    "notext.jsonl": rows({"words": "a", "label": 0}, {"words": "b", "label": 1}),
    "oneclass.jsonl": rows({"text": "a", "label": 0}, {"text": "b", "label": 0}),
    "missing.jsonl": rows({"text": None, "label": 0}, {"text": "b", "label": 1}),
    "labels.jsonl": rows({"text": "a", "label": [0]}, {"text": "b", "label": [1]}),
    "three.jsonl": rows(*({"text": "a", "label": n % 3} for n in range(9))),
    "other.jsonl": rows({"text": "a", "label": "ugly"}, {"text": "b", "label": "bad"}),
    "scores.jsonl": rows(*({"text": "a b", "label": n / 7} for n in range(8))),
    "ragged.csv": text("text,label\na,0\nb\n"),
    "header.csv": text("text,label\n"),
    "twice.csv": text("text,text,label\na,b,0\nc,d,1\n"),
    "latin.csv": lambda path, given: path.write_bytes("text,label\nfür,0\nb,1\n".encode("latin-1")),
    "cut.jsonl.gz": lambda path, given: path.write_bytes(
        gzip.compress(json.dumps(ROWS).encode())[:20]
    ),
    "not.parquet": text("text,label\na,0\n"),
    "data.xlsx": text("x"),
    "folder": lambda path, given: path.mkdir(),
    "saved": lambda path, given: (path.mkdir(), (path / "state.json").write_text("{")),
    # models
    "nothing": lambda path, given: path.mkdir(),
    "noconfig": model(lambda folder: (folder / "config.json").unlink()),
    "badconfig": model(cut("config.json", 40)),
    "strangeconfig": model(edited("config.json", model_type="nosuch")),
    "wrongtype": model(edited("config.json", num_hidden_layers="two")),
    "noheads": model(edited("config.json", num_attention_heads=0)),
    "oddheads": model(edited("config.json", num_attention_heads=3)),
    "noweights": model(lambda folder: (folder / "model.safetensors").unlink()),
    "cutweights": model(cut("model.safetensors")),
    "emptyweights": model(cut("model.safetensors", 0)),
    "wider": model(edited("config.json", hidden_size=32)),
    "notokenizer": model(lambda folder: [path.unlink() for path in folder.glob("*token*")]),
    "cuttokenizer": model(cut("tokenizer.json")),
    "strangetokenizer": model(edited("tokenizer.json", model={"type": "nosuch"})),
    # configuration files
    "cut.json": text('{"adv": '),
    "twice.json": text('{"learning_rate": 1, "learning_rate": 2}'),
    "twice.yaml": text("learning_rate: 1\nlearning_rate: 2\n"),
    "both.yaml": text("learning_rate: 1\nlearning-rate: 2\n"),
    "unknown.yaml": text("adv_epsilonn: 0.1\n"),
    "fast.yaml": text("learning_rate: fast\n"),
    "half.yaml": text("max_steps: 2.5\n"),
    "nested.yaml": text("adv: {name: freelb}\n"),
    "matrix.yaml": text("attack_epsilons: [[0.1]]\n"),
    "none.yaml": text(""),
    "words.yaml": text("learning_rate\n"),
    "bad.yaml": text("adv: [freelb\n"),
    "tab.yaml": text("\tadv: freelb\n"),
    "object.yaml": text("adv: !!python/object/apply:os.getcwd []\n"),
    "two.yaml": text("adv: none\n---\nadv: fgm\n"),
    "emptylist.yaml": text("attack_epsilons: []\n"),
    "folder.yaml": lambda path, given: path.mkdir(),
    "binary.yaml": lambda path, given: path.write_bytes(b"adv: \xff\xfe"),
    "fine.yaml": text("seed: 3\n"),
    "fine.json": text('{"seed": 3}'),
    "bool.yaml": text("overwrite_output_dir: maybe\n"),
    "method.yaml": text("adv: nosuch\n"),
    "negative.yaml": text("learning_rate: -1e-4\n"),
    # resources of attacks
    "table.json": text("[1]"),
    "own.py": text(
        "import random\ndef fails(*given):\n    raise KeyError('nothing')\n"
        "def one(*given):\n    return [1]\n"
        "def chance(old, new):\n    return [random.random() < 0.5 for _ in range(len(new))]\n"
    ),
    "cuttable.json": text('{"good": ["ba'),
    "protocol.json": text('{"name": "mine", "nosuch": 1}'),
    "unnamed.json": text('{"max_changed": 0.5}'),
    "default.json": text('{"name": "default"}'),
    "wrongprotocol.json": text('{"name": "mine", "max_changed": "much"}'),
    # images
    "pictures": lambda path, given: path.mkdir(),
    "flatpictures": lambda path, given: (path.mkdir(), (path / "a.png").write_bytes(b"x")),
    "brokenpictures": lambda path, given: [
        (
            (path / "train" / name).mkdir(parents=True),
            [(path / "train" / name / f"{n}.png").write_bytes(b"no picture") for n in range(4)],
        )
        for name in "ab"
    ],
    "nolabels": digits_without("train-labels-idx1-ubyte"),
    "cutdigits": digits_with("train-images-idx3-ubyte", idx(48, 8, 8, values=b"123")),
    "strangedigits": digits_with("train-images-idx3-ubyte", b"hello world"),
    "nodigits": digits_with("train-images-idx3-ubyte", b""),
    "fewlabels": digits_with("train-labels-idx1-ubyte", idx(2, values=b"\0\1")),
    "noprocessor": model(lambda folder: (folder / "preprocessor_config.json").unlink(), "images"),
    "badprocessor": model(cut("preprocessor_config.json", 20), "images"),
    "cutimages": model(cut("model.safetensors"), "images"),
    "zerostd": model(edited("preprocessor_config.json", image_std=[0.0]), "images"),
    # evaluations
    "unfinished": lambda path, given: (
        shutil.copytree(given["evaluation"], path),
        edited("evaluation.json", found="gone")(path),
    ),
    "damaged": lambda path, given: (
        shutil.copytree(given["evaluation"], path),
        cut("evaluation.json", 50)(path),
    ),
    "changed": lambda path, given: (
        shutil.copytree(given["evaluation"], path),
        edited("evaluation.json", seed="gone")(path),
    ),
    "norecords": lambda path, given: (
        shutil.copytree(given["evaluation"], path),
        (path / "records.jsonl").unlink(),
    ),
    "badrecords": lambda path, given: (
        shutil.copytree(given["evaluation"], path),
        (path / "records.jsonl").write_text('{"attack": 1}\n{"attack": 2}\n'),
    ),
    # recipes
    "nomethods.yaml": recipe(methods="gone"),
    "emptymethods.yaml": recipe(methods={}),
    "listmethods.yaml": recipe(methods=[1]),
    "noseeds.yaml": recipe(seeds=[]),
    "wordseeds.yaml": recipe(seeds=["one"]),
    "extra.yaml": recipe(trian={}),
    "control.yaml": recipe(methods={"none": {"adv": "none"}, "c": {"of": "x", "logits_times": 2}}),
    "badmethod.yaml": recipe(methods={"none": {"adv": "nosuch"}}),
    "badflag.yaml": recipe(methods={"none": {"adv": "none", "nosuch": 1}}),
    "badattack.yaml": recipe(attack={"attacks": ["textfoler"]}),
    "published.yaml": recipe(published=[{"method": "none"}]),
    # places to write to
    "file": text("mine"),
    "full": lambda path, given: (path.mkdir(), (path / "notes.txt").write_text("mine")),
}

# command line, what is typed after the good line, what the sentence says
CASES: list[tuple[str, str, str]] = [
    # what is refused before a folder is made, or leaves none behind
    ("demo", "--optim adamw_bnb_8bit", "bitsandbytes"),
    ("demo", "--use_liger_kernel true", "liger"),
    ("train", "--model_name_or_path notokenizer", "notokenizer"),
    ("bare compare", "badmethod.yaml --output_dir out", "nosuch"),
    ("bare compare", "badflag.yaml --output_dir out", "--nosuch"),
    ("bare compare", "badattack.yaml --output_dir out", "Name the texts"),
    ("compare", "--learning_rate -1", "--learning_rate is -1"),
    # flags of training
    ("demo", "--adv nosuch", "nosuch"),
    ("demo", "--adv", "--adv: expected one argument"),
    ("demo", "--adv fgm --adv_steps 3", "steps"),
    ("demo", "--adv pgd --adv_epsilon -1", "epsilon"),
    ("demo", "--adv pgd --adv_epsilon much", "--adv_epsilon: invalid float value: 'much'"),
    ("demo", "--adv pgd --adv_norm l3", "l3"),
    ("demo", "--nosuch 1", "--nosuch"),
    ("demo", "--learning_rte 1", "did you mean --learning_rate?"),
    ("demo", "stray", "stray"),
    ("demo", "--learning_rate -1", "--learning_rate is -1"),
    ("demo", "--learning_rate nan", "--learning_rate is nan"),
    ("demo", "--learning_rate inf", "--learning_rate is inf"),
    ("demo", "--learning_rate 1e-4x", "--learning_rate"),
    ("demo", "--weight_decay -0.1", "--weight_decay is -0.1"),
    ("demo", "--adam_beta1 1", "--adam_beta1 is 1"),
    ("demo", "--adam_beta2 -0.5", "--adam_beta2 is -0.5"),
    ("demo", "--adam_epsilon -1", "--adam_epsilon is -1"),
    ("demo", "--max_grad_norm -1", "--max_grad_norm is -1"),
    ("demo", "--label_smoothing_factor 1.5", "--label_smoothing_factor is 1.5"),
    ("demo", "--warmup_steps -3", "warmup_steps"),
    ("demo", "--num_train_epochs nan --max_steps -1", "--num_train_epochs is nan"),
    ("demo", "--num_train_epochs -1 --max_steps -1", "--num_train_epochs is -1"),
    ("demo", "--max_steps -7", "--max_steps is -7"),
    ("demo", "--max_steps 2.5", "--max_steps: invalid int value"),
    ("demo", "--per_device_train_batch_size 0", "--per_device_train_batch_size is 0"),
    ("demo", "--per_device_eval_batch_size -1", "--per_device_eval_batch_size is -1"),
    ("demo", "--gradient_accumulation_steps 0", "--gradient_accumulation_steps is 0"),
    ("demo", "--seed -1", "--seed is -1"),
    ("demo", "--seed 4294967296", "--seed is"),
    ("demo", "--data_seed -1", "--data_seed is -1"),
    ("demo", "--dataloader_num_workers -1", "--dataloader_num_workers is -1"),
    ("demo", "--dataloader_prefetch_factor 2", "prefetch"),
    ("demo", "--save_total_limit 0", "--save_total_limit is 0"),
    ("demo", "--save_strategy steps --save_steps 0", "save_steps"),
    ("demo", "--logging_strategy steps --logging_steps 0", "logging_steps"),
    ("demo", "--lr_scheduler_type nosuch", "nosuch"),
    ("demo", "--lr_scheduler_kwargs {", "lr_scheduler_kwargs"),
    ("demo", "--optim nosuch", "nosuch"),
    ("demo", "--report_to nosuch", "nosuch"),
    ("demo", "--report_to tensorboard", "tensorboard"),
    ("demo", "--report_to wandb", "wandb"),
    ("demo", "--report_to comet_ml", "comet"),
    ("demo", "--report_to mlflow", "mlflow"),
    ("demo", "--push_to_hub true", "Hub"),
    ("demo", "--deepspeed nosuch.json", "deepspeed"),
    ("demo", "--fsdp true", "fsdp"),
    ("demo", "--fp16 maybe", "maybe"),
    ("demo", "--fp16 true --bf16 true", "fp16"),
    ("demo", "--log_level loud", "loud"),
    ("demo", "--attack_epsilons 0.1,0.2", "attack_epsilons"),
    ("demo", "--attack_epsilons -1", "attack_epsilons"),
    ("demo", "--attack_steps 0", "attack_steps"),
    ("demo", "--max_seq_length 0", "max_seq_length"),
    ("demo", "--max_train_samples 0", "max_train_samples"),
    ("demo", "--modality sound", "sound"),
    ("demo", "--modality", "--modality"),
    ("demo", "--text_columns a", "--text_columns"),
    ("demo", "--metric_for_best_model nosuch", "nosuch"),
    ("demo", "--resume_from_checkpoint last", "no checkpoint"),
    ("demo", "--resume_from_checkpoint nosuch", "no checkpoint"),
    ("demo", "--adv pgd --adv_start_step 9", "start_step"),
    ("demo", "--adv_embedding nosuch --adv pgd", "nosuch"),
    ("bare", "--model_name_or_path {model}", "Name a model"),
    ("bare", "--train_file {train}", "Name a model"),
    # places
    ("demo", "--output_dir file", "file"),
    ("demo", "--output_dir file/out", "file"),
    ("demo", "--output_dir /proc/out", "/proc/out"),
    ("demo", f"--output_dir {'x' * 300}", "name too long"),
    ("demo", "--output_dir full", "not empty"),
    # configuration files
    ("demo", "nosuch.yaml", "nosuch.yaml cannot be read"),
    ("demo", "nosuch.json", "nosuch.json cannot be read"),
    ("demo", "cut.json", "cut.json cannot be read as JSON"),
    ("demo", "twice.json", "learning_rate is there twice"),
    ("demo", "twice.yaml", "learning_rate is there twice"),
    ("demo", "both.yaml", "learning_rate twice"),
    ("demo", "unknown.yaml", "did you mean --adv_epsilon?"),
    ("demo", "fast.yaml", "invalid float value: 'fast'"),
    ("bare", "half.yaml", "invalid int value: '2.5'"),
    ("demo", "nested.yaml", "adv is neither a value nor a list"),
    ("demo", "matrix.yaml", "attack_epsilons is neither"),
    ("demo", "emptylist.yaml", "attack_epsilons is neither"),
    ("demo", "none.yaml", "must hold flags by name"),
    ("demo", "words.yaml", "must hold flags by name"),
    ("demo", "list.json", "must hold flags by name"),
    ("demo", "bad.yaml", "bad.yaml cannot be read as YAML: line"),
    ("demo", "tab.yaml", "tab.yaml cannot be read as YAML: line 1"),
    ("demo", "object.yaml", "object.yaml cannot be read as YAML"),
    ("demo", "two.yaml", "two.yaml cannot be read as YAML"),
    ("demo", "folder.yaml", "folder.yaml cannot be read"),
    ("demo", "binary.yaml", "binary.yaml cannot be read as YAML"),
    ("demo", "fine.yaml fine.json", "fine.yaml and fine.json"),
    ("demo", "--config", "--config"),
    ("demo", "bool.yaml", "maybe"),
    ("demo", "method.yaml", "nosuch"),
    ("demo", "--seed 3 fine.yaml --seed -1", "--seed is -1"),
    ("bare", "negative.yaml", "--learning_rate is -0.0001"),
    # data
    ("train", "--train_file nosuch.csv", "nosuch.csv does not exist"),
    ("train", "--train_file folder", "is a folder"),
    ("train", "--train_file data.xlsx", "unknown format"),
    ("train", "--train_file empty.jsonl", "empty"),
    ("train", "--train_file broken.jsonl", "line 2"),
    ("train", "--train_file list.json", "No label column"),
    ("train", "--train_file numbers.jsonl", "not text"),
    ("train", "--train_file nolabel.jsonl", "No label column"),
    ("train", "--train_file notext.jsonl", "No text column"),
    ("train", "--train_file oneclass.jsonl", "two classes"),
    ("train", "--train_file missing.jsonl", "Row 1"),
    ("train", "--train_file labels.jsonl", "Row 1"),
    ("train", "--validation_file other.jsonl", "'ugly'"),
    ("train", "--train_file ragged.csv", "line 3"),
    ("train", "--train_file header.csv", "empty"),
    ("train", "--train_file twice.csv", "same name"),
    ("train", "--train_file latin.csv", "UTF-8"),
    ("train", "--train_file cut.jsonl.gz", "gzip"),
    ("train", "--train_file not.parquet", "parquet"),
    ("train", "--text_columns nosuch", "nosuch"),
    ("train", "--label_column nosuch", "nosuch"),
    ("train", "--dataset_name folder", "exactly one source"),
    ("bare", "--model_name_or_path {model} --dataset_name folder", "no train file"),
    ("bare", "--model_name_or_path {model} --dataset_name saved", "cannot be read"),
    ("bare", "--model_name_or_path {model} --dataset_name nosuch", "nosuch"),
    ("bare", "--model_name_or_path {model} --dataset_name a/b/c", "a/b/c"),
    ("bare", "--model_name_or_path {model} --task_name nosuch", "nosuch"),
    ("bare", "--model_name_or_path {model} --task_name sst2", "Hub"),
    ("train", "--regression true", "no finite number"),
    (
        "train",
        "--train_file scores.jsonl --validation_file scores.jsonl --attack_epsilons 0.1",
        "regression",
    ),
    # models
    ("train", "--model_name_or_path nosuch", "nosuch"),
    ("train", "--model_name_or_path ./nosuch", "nosuch"),
    ("train", "--model_name_or_path a/b/c/d", "a/b/c/d"),
    ("train", "--model_name_or_path nothing", "nothing holds no usable"),
    ("train", "--model_name_or_path noconfig", "noconfig holds no usable"),
    ("train", "--model_name_or_path badconfig", "badconfig holds no usable"),
    ("train", "--model_name_or_path strangeconfig", "strangeconfig holds no usable"),
    ("train", "--model_name_or_path wrongtype", "wrongtype holds no usable"),
    ("train", "--model_name_or_path noheads", "noheads holds no usable"),
    ("train", "--model_name_or_path oddheads", "oddheads holds no usable"),
    ("train", "--model_name_or_path noweights", "noweights holds no usable"),
    ("train", "--model_name_or_path cutweights", "cutweights holds no usable"),
    ("train", "--model_name_or_path emptyweights", "emptyweights holds no usable"),
    ("train", "--model_name_or_path wider", "wider"),
    ("train", "--model_name_or_path cuttokenizer", "cuttokenizer holds no usable tokenizer"),
    (
        "train",
        "--model_name_or_path strangetokenizer",
        "strangetokenizer holds no usable tokenizer",
    ),
    ("train", "--tokenizer_name {large}", "they do not belong together"),
    ("train", "--tokenizer_name {nopad}", "neither a padding token nor an end token"),
    ("train", "--model_name_or_path {short}", "smaller --max_seq_length"),
    (
        "train",
        "--train_file three.jsonl --validation_file three.jsonl --model_name_or_path {victim}",
        "head for other labels",
    ),
    ("train", "--adv_words nosuch", "no attack 'nosuch'"),
    ("train", "--adv_words static", "finds no texts"),
    ("train", "--adv_words a2t", "--neighbours"),
    ("train", "--adv_words a2t --neighbours table.json", "table.json"),
    ("train", "--adv_words deepwordbug --adv_words_share 0", "(0, 1]"),
    ("train", "--adv_words deepwordbug --adv_words_every 0", "every 0 epochs"),
    ("train", "--adv_words deepwordbug --protocol li2021", "--encoder"),
    (
        "train",
        "--adv_words deepwordbug --max_steps -1 --num_train_epochs 1",
        "attacks on words begin after 1",
    ),
    (
        "train",
        "--adv_words deepwordbug --train_file scores.jsonl --validation_file scores.jsonl",
        "texts of one class each",
    ),
    # sweep
    ("sweep", "--adv_words deepwordbug", "no flag --adv_words"),
    ("sweep", "--trials 0", "--trials is 0"),
    ("sweep", "--search nosuch", "nosuch"),
    ("sweep", "--space learning_rate", "learning_rate"),
    ("sweep", "--space nosuch=1:2", "nosuch"),
    ("sweep", "--space learning_rate=-1:1:linear", "--learning_rate is -1"),
    ("sweep", "--space adv_epsilon=0.1:0.2", "epsilon"),
    ("sweep", "--clean_share 2", "--clean_share is 2"),
    ("sweep", "--clean_share half", "--clean_share"),
    ("sweep", "--resume_from_checkpoint last", "resume_from_checkpoint"),
    ("sweep", "--nosuch 1", "--nosuch"),
    ("sweep", "--learning_rate -1", "--learning_rate is -1"),
    ("sweep", "--output_dir file", "is a file"),
    ("sweep", "--output_dir full", "not empty"),
    ("sweep", "--output_dir /proc/out", "/proc/out"),
    ("sweep", "--model_name_or_path cutweights", "cutweights holds no usable"),
    ("sweep", "--tokenizer_name {large}", "they do not belong together"),
    ("sweep", "--tokenizer_name {nopad}", "neither a padding token nor an end token"),
    ("sweep", "twice.yaml", "learning_rate is there twice"),
    ("sweep", "fast.yaml", "invalid float value: 'fast'"),
    ("sweep", "--train_file missing.jsonl", "Row 1"),
    ("sweep", "--report_to wandb", "wandb"),
    # attack and evaluate
    ("bare attack", "", "--model_name_or_path"),
    ("bare attack", "--model_name_or_path {victim}", "--test_file"),
    ("bare attack", "--model_name_or_path {victim} --test_file {dev}", "--output_dir"),
    ("bare evaluate", "--model_name_or_path {victim} --test_file {dev}", "--output_dir"),
    ("attack", "--attacks textfoler", "textfooler"),
    ("attack", "--attacks textfooler", "--neighbours"),
    ("attack", "--attacks pwws", "WordNet"),
    ("attack", "--attacks bae", "--masked_lm"),
    ("attack", "--attacks", "--attacks"),
    ("attack", "--attacks textfooler --neighbours nosuch.json", "nosuch.json"),
    ("attack", "--attacks textfooler --neighbours table.json", "table.json"),
    ("attack", "--attacks textfooler --neighbours cuttable.json", "cuttable.json"),
    ("attack", "--attacks pwws --wordnet nothing", "nothing"),
    ("attack", "--attacks bae --masked_lm nosuch", "nosuch"),
    ("attack", "--attacks bae --masked_lm cutweights", "cutweights"),
    ("attack", "--protocol nosuch", "nosuch"),
    ("attack", "--protocol nosuch.json", "nosuch.json"),
    ("attack", "--protocol cut.json", "cut.json"),
    ("attack", "--protocol protocol.json", "protocol.json"),
    ("attack", "--protocol unnamed.json", "unnamed.json"),
    ("attack", "--protocol default.json", "default"),
    ("attack", "--protocol wrongprotocol.json", "wrong type"),
    ("attack", "--protocol li2021 --encoder nothing", "nothing"),
    ("attack", "--protocol textfooler2020 --tagger nosuch", "nosuch"),
    ("attack", "--tagger nltk", "nltk"),
    ("attack", "--stop_words nosuch", "nosuch"),
    ("attack", "--protected_words nosuch.txt", "no list of protected words 'nosuch.txt'"),
    ("attack", "--protected_words ...", "holds no letter"),
    ("attack", "--constraints nosuch", "--constraints is 'nosuch'; write FILE.py:FUNCTION"),
    ("attack", "--constraints nosuch.py:f", "no file nosuch.py"),
    ("attack", "--constraints own.py:f", "own.py has no function 'f'"),
    ("attack", "--constraints own.py:fails", "constraint fails failed on the text"),
    ("attack", "--constraints own.py:one", "True or False for each"),
    ("attack", "--constraints own.py:chance", "two answers to the same text"),
    ("attack", "--goal own.py:fails", "goal fails failed on the text"),
    ("attack", "--goal own.py:one", "a finite number for each row"),
    ("attack", "--goal own.py:one --target 0", "and so does a target"),
    ("attack", "--goal own.py:one --attacks hotflip", "hotflip follows the gradient"),
    ("attack", "--segmenter own.py:one", "The segmenter one"),
    ("attack", "--model_name_or_path own.py:fails", "failed on the text"),
    ("attack", "--target 5", "target"),
    ("attack", "--target ugly", "--target"),
    ("attack", "--max_examples 0", "max_examples"),
    ("attack", "--max_seq_length 0", "max_seq_length"),
    ("attack", "--tokens_per_batch 0", "tokens_per_batch"),
    ("attack", "--shard 3/2", "3/2"),
    ("attack", "--shard a", "shard"),
    ("attack", "--device nosuch", "nosuch"),
    ("attack", "--device cuda:99", "cuda:99"),
    ("attack", "--nosuch 1", "--nosuch"),
    ("attack", "--epsilon 0.1", "--modality image"),
    ("attack", "--modality sound", "sound"),
    ("attack", "--split nosuch --test_file= --dataset_name folder", "folder"),
    ("attack", "--dataset_name folder", "one of --test_file"),
    ("attack", "--test_file nosuch.csv", "nosuch.csv"),
    ("attack", "--test_file empty.jsonl", "empty"),
    ("attack", "--test_file broken.jsonl", "line 2"),
    ("attack", "--test_file missing.jsonl", "Row 1"),
    ("attack", "--test_file numbers.jsonl", "not text"),
    ("attack", "--test_file other.jsonl", "ugly"),
    ("attack", "--test_file three.jsonl", "2 classes"),
    ("attack", "--test_file scores.jsonl", "label"),
    ("attack", "--train_file nosuch.csv", "nosuch.csv"),
    ("attack", "--text_columns nosuch", "nosuch"),
    ("attack", "--label_column nosuch", "nosuch"),
    ("attack", "--model_name_or_path nosuch", "nosuch"),
    ("attack", "--model_name_or_path {model}", "no trained classifier"),
    ("attack", "--model_name_or_path nothing", "nothing holds no usable"),
    ("attack", "--model_name_or_path badconfig", "badconfig holds no usable"),
    ("attack", "--model_name_or_path wrongtype", "wrongtype holds no usable"),
    ("attack", "--model_name_or_path noweights", "noweights holds no usable"),
    ("attack", "--model_name_or_path cutweights", "cutweights holds no usable"),
    ("attack", "--model_name_or_path wider", "wider"),
    ("attack", "--model_name_or_path cuttokenizer", "cuttokenizer holds no usable tokenizer"),
    ("attack", "--tokenizer_name {large}", "they do not belong together"),
    ("attack", "--tokenizer_name {nopad}", "neither a padding token nor an end token"),
    ("attack", "--output_dir file", "file"),
    ("attack", "--output_dir /proc/out", "/proc/out"),
    ("attack", "--output_dir file/out", "file"),
    ("attack", "twice.yaml", "twice"),
    ("attack", "fast.yaml", "--learning_rate"),
    ("attack", "cut.json", "cut.json cannot be read"),
    ("evaluate", "--epsilons much", "much"),
    ("evaluate", "--embedding_steps 0", "steps"),
    ("evaluate", "--embedding_restarts 0", "restarts"),
    ("evaluate", "--embedding_protocol nosuch", "autoattack2020"),
    ("attack", "--epsilons 0.1", "No attack on the embeddings is named"),
    ("attack", "--attacks auto --epsilons 0", "--epsilons"),
    ("attack", "--attacks auto --embedding_norm l1", "auto: APGD steps in L∞ and L2"),
    ("attack", "--attacks auto --embedding_queries -1", "queries must be"),
    ("attack", "--attacks autos", "did you mean auto?"),
    ("evaluate", "--embedding_norm l7", "l7"),
    ("evaluate", "--embedding_per word", "--embedding_per"),
    ("evaluate", "--embedding_examples 0", "--embedding_examples"),
    ("evaluate", "--check_examples 0", "check_examples"),
    ("evaluate", "--model_name_or_path cutweights", "cutweights holds no usable"),
    ("evaluate", "--tokenizer_name {large}", "they do not belong together"),
    ("evaluate", "--output_dir /proc/out", "/proc/out"),
    ("evaluate", "unknown.yaml", "--adv_epsilonn"),
    ("evaluate", "--modality image", "--modality"),
    # report
    ("bare report", "", "folders"),
    ("bare report", "{evaluation}", "--output_dir"),
    ("bare report", "nosuch --output_dir out", "nosuch holds no evaluation"),
    ("bare report", "nothing --output_dir out", "nothing holds no evaluation"),
    ("bare report", "file --output_dir out", "file"),
    ("bare report", "unfinished --output_dir out", "not finished"),
    ("bare report", "damaged --output_dir out", "damaged"),
    ("bare report", "changed --output_dir out", "damaged"),
    ("bare report", "norecords --output_dir out", "norecords"),
    ("bare report", "badrecords --output_dir out", "badrecords"),
    ("report", "--output_dir file", "file"),
    ("report", "--output_dir /proc/out", "/proc/out"),
    ("report", "--nosuch 1", "--nosuch"),
    # compare
    ("bare compare", "", "recipe"),
    ("bare compare", "nosuch.yaml", "nosuch.yaml"),
    ("bare compare", "folder.yaml", "folder.yaml"),
    ("bare compare", "bad.yaml", "bad.yaml"),
    ("bare compare", "none.yaml", "title, methods and seeds"),
    ("bare compare", "nomethods.yaml", "title, methods and seeds"),
    ("bare compare", "emptymethods.yaml", "no method"),
    ("bare compare", "listmethods.yaml", "listmethods.yaml"),
    ("bare compare", "noseeds.yaml", "seed"),
    ("bare compare", "wordseeds.yaml", "one"),
    ("bare compare", "extra.yaml", "title, methods and seeds"),
    ("bare compare", "control.yaml", "not trained"),
    ("bare compare", "published.yaml", "published.yaml"),
    ("compare", "stray", "stray"),
    ("compare", "--methods nosuch", "nosuch"),
    ("compare", "--seeds one", "--seeds"),
    ("compare", "--output_dir file", "file"),
    ("compare", "--output_dir /proc/out", "/proc/out"),
    ("compare", "--nosuch.learning_rate 1", "nosuch"),
    ("compare", "--report_only", "no finished cell"),
    # images
    ("train image", "--dataset_name nosuch", "nosuch"),
    ("train image", "--dataset_name ./nosuch", "does not exist"),
    ("train image", "--dataset_name pictures", "pictures"),
    ("train image", "--dataset_name flatpictures", "no classes"),
    ("train image", "--dataset_name brokenpictures", "cannot be read"),
    ("train image", "--dataset_name nolabels", "no labels beside it"),
    ("train image", "--dataset_name cutdigits", "truncated"),
    ("train image", "--dataset_name strangedigits", "no IDX file"),
    ("train image", "--dataset_name nodigits", "no IDX file"),
    ("train image", "--dataset_name fewlabels", "should be"),
    ("train image", "--validation_examples 1000", "leaves nothing"),
    ("train image", "--validation_examples 0", "--validation_examples is 0"),
    ("train image", "--max_train_samples 0", "--max_train_samples is 0"),
    ("train image", "--adv smart --adv_epsilon -1", "epsilon"),
    ("train image", "--adv nosuch", "nosuch"),
    ("train image", "--adv pgd --adv_epsilon 8/0", "8/0"),
    ("train image", "--attack_epsilons -1", "attack_epsilons"),
    ("train image", "--attack_steps 0", "attack_steps"),
    ("train image", "--learning_rate -1", "--learning_rate is -1"),
    ("train image", "--pixel_std 0", "--pixel_std"),
    ("train image", "--pixel_mean 0 0", "--pixel_mean"),
    ("train image", "--config_name a --model_name_or_path b", "not both"),
    ("train image", "--model_name_or_path nosuch", "nosuch"),
    ("train image", "--model_name_or_path nothing", "nothing"),
    ("train image", "--model_name_or_path cutimages", "cutimages"),
    ("train image", "--model_name_or_path noprocessor", "noprocessor"),
    ("train image", "--model_name_or_path badprocessor", "badprocessor"),
    ("train image", "--report_to tensorboard", "tensorboard"),
    ("train image", "--output_dir /proc/out", "/proc/out"),
    ("train image", "--output_dir file", "file"),
    ("train image", "--task_name sst2", "--task_name"),
    ("train image", "twice.yaml", "learning_rate is there twice"),
    ("train image", "--watch_epsilon -1", "watch_epsilon"),
    ("attack image", "--attacks nosuch", "nosuch"),
    ("evaluate", "--epsilons -1", "--epsilons is -1"),
    ("evaluate", "--epsilons nan", "--epsilons is nan"),
    ("evaluate", "--epsilons 0", "--epsilons is 0"),
    ("evaluate", "--epsilons inf", "--epsilons is inf"),
    ("evaluate", "--epsilons 0.02 0.02", "twice"),
    ("attack image", "--epsilon -1", "--epsilon"),
    ("attack image", "--epsilon 0", "--epsilon is 0"),
    ("attack image", "--epsilon=8/0", "8/0"),
    ("attack image", "--epsilon nan", "epsilon"),
    ("attack image", "--norm l3", "l3"),
    ("attack image", "--norm l2", "--epsilon"),
    ("attack image", "--loss nosuch", "nosuch"),
    ("attack image", "--steps 0", "--steps is 0"),
    ("attack image", "--step_size -1", "step_size"),
    ("attack image", "--restarts 0", "--restarts is 0"),
    ("attack image", "--batch_size 0", "--batch_size is 0"),
    ("attack image", "--max_examples -1", "--max_examples is -1"),
    ("attack image", "--epsilons -1", "epsilons"),
    ("attack image", "--target nosuch", "nosuch"),
    ("attack image", "--split nosuch", "nosuch"),
    ("attack image", "--device nosuch", "nosuch"),
    ("attack image", "--attacks cw --cw_steps 0", "steps"),
    ("attack image", "--attacks deepfool --norm l1 --epsilon 1", "deepfool"),
    ("attack image", "--attacks fgsm --norm l2 --epsilon 1", "fgm"),
    ("attack image", "--protocol default", "--protocol"),
    ("attack image", "--nosuch 1", "--nosuch"),
    ("attack image", "--dataset_name nosuch", "nosuch"),
    ("attack image", "--dataset_name strangedigits", "no IDX file"),
    ("attack image", "--model_name_or_path nosuch", "nosuch"),
    ("attack image", "--model_name_or_path {victim}", "{victim}"),
    ("attack image", "--model_name_or_path cutimages", "cutimages"),
    ("attack image", "--model_name_or_path noprocessor", "noprocessor"),
    ("attack image", "--model_name_or_path zerostd", "std"),
    ("attack image", "--output_dir file", "file"),
    ("attack image", "--output_dir /proc/out", "/proc/out"),
    ("attack image", "--seed x", "--seed"),
    ("attack image", "unknown.yaml", "--adv_epsilonn"),
]
