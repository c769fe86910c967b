"""`nlp-adv run`: whose words are whose, what it refuses, and how it ends."""

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shapes import by_hand, script
from training.tiny_training import distance

import nlp_adv
from nlp_adv.cli.main import main
from nlp_adv.run.words import name_of, own_words

HERE = Path(__file__).parent
FREELB = ("--adv", "freelb")
# A stand-in for transformers, which takes seconds to import: the hook sees no more of it.
TRAINER = """
class Trainer:
    def __init__(self, model=None): pass
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NLP_ADV_FLAGS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(nlp_adv.__file__).parents[1]))
    return tmp_path


@pytest.fixture
def pretended(work, monkeypatch):
    """transformers with a Trainer that does nothing; a note stands for a training that began."""
    package = work / "pretended" / "transformers"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "trainer.py").write_text(TRAINER)
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{os.environ['PYTHONPATH']}")
    return work


TRAINED = """
import os
from nlp_adv.run.notes import Orders
Orders.of(os.environ["NLP_ADV_RUN"]).note("began", None)
"""


def run(text: str, *argv: str, flags: tuple[str, ...] = FREELB, name: str = "script.py") -> int:
    Path(name).write_text(text, encoding="utf-8")
    return main(["run", *flags, name, *argv])


def said(capfd) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("nlp-adv")]


class TestWords:
    @pytest.mark.parametrize(
        ("own", "rest"),
        [
            ("--adv freelb", "train.py --adv pgd --debug"),
            ("--adv freelb", "-- torchrun --nproc_per_node 2 train.py"),
            ("--adv freelb", "-m package.train --x"),
            ("--adv", "there"),  # without a value it is refused later
            ("--adv freelb", "there x"),
            ("--adv=freelb", "there x"),
            ("flags.yaml --adv_seed 1", "train.py"),
            ("--adv freelb torchrun", ""),
        ],
    )
    def test_the_script_begins_where_it_is_named(self, own, rest, work):
        (work / "there").write_text("")
        (work / "flags.yaml").write_text("adv: pgd")
        words = f"{own} {rest}".split()
        expected = len(own.split()) + (own == "--adv")  # a flag's value is never a script
        assert own_words(words) == expected

    def test_what_a_sentence_calls_it(self):
        assert name_of(["python", "a/train.py", "b.py"]) == "train.py"
        assert name_of(["python", "-m", "package.train", "x"]) == "package.train"
        assert name_of(["/usr/bin/thing", "x"]) == "thing"

    def test_what_follows_the_script_is_its_own(self, work):
        text = TRAINED + "import json, sys; json.dump(sys.argv, open('argv.json', 'w'))"
        argv = ["--debug", "--help", "--adv", "pgd", "--", "-h", "x.yaml"]
        assert run(text, *argv) == 0
        assert json.loads(Path("argv.json").read_text()) == ["script.py", *argv]

    def test_flags_may_stand_in_the_environment_and_those_beside_them_win(self, work, monkeypatch):
        monkeypatch.setenv("NLP_ADV_FLAGS", "--adv pgd --adv_steps 5 --adv_epsilon 8/255")
        text = TRAINED + "print(os.environ['NLP_ADV_RUN'], file=open('orders', 'w'))"
        assert run(text, flags=("--adv_steps", "7")) == 0
        flags = json.loads(Path("orders").read_text())["flags"]
        assert (flags["adv"], flags["adv_steps"], flags["adv_epsilon"]) == ("pgd", 7, 8 / 255)

    def test_modules_and_commands(self, work):
        (work / "package").mkdir()
        (work / "package/train.py").write_text(TRAINED)
        assert main(["run", *FREELB, "-m", "package.train"]) == 0
        assert main(["run", *FREELB, "--", sys.executable, "package/train.py"]) == 0
        assert main(["run", *FREELB, "--", "package/train.py"]) == 0

    def test_help_names_the_flags(self, capsys):
        with pytest.raises(SystemExit) as end:
            main(["run", "--help"])
        assert end.value.code == 0
        text = capsys.readouterr().out
        assert "--adv_steps" in text
        assert "--adv_trainer" in text
        assert "--learning_rate" not in text
        assert "Preset: 3" in text


class TestRefusals:
    @pytest.mark.parametrize(
        ("argv", "words"),
        [
            (["script.py", "--adv", "freelb"], ["Which method?", "before the script"]),
            (["script.py"], ["Which method?"]),
            (["--adv_steps", "3", "script.py"], ["Which method?"]),
            ([*FREELB, "missing.py"], ["There is no script missing.py."]),
            ([*FREELB, "--", "no-such-command"], ["There is no script or command no-such"]),
            ([*FREELB], ["Which script?"]),
            ([*FREELB, "--"], ["Which script?"]),
            ([], ["Which script?"]),
            (["--adv", "freeelb", "script.py"], ["Unknown method", "did you mean freelb"]),
            ([*FREELB, "--adv_step", "3", "script.py"], ["There is no flag --adv_step"]),
            ([*FREELB, "--adv_steps", "0", "script.py"], ["steps"]),
            ([*FREELB, "--learning_rate", "1", "script.py"], ["There is no flag"]),
            ([*FREELB, "torchrun", "script.py"], ["after --", "-- torchrun"]),
        ],
    )
    def test_before_the_script_begins(self, argv, words, work, capfd):
        Path("script.py").write_text("open('begun', 'w')")
        assert main(["run", *argv]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("nlp-adv run: error: ")
        assert all(word in line for word in words), line
        assert not Path("begun").exists()

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("print('no_trainer')", ["script.py built no transformers.Trainer"]),
            ("import transformers.trainer", ["script.py built no transformers.Trainer"]),
            (TRAINED.replace("began", "built"), ["built NoneType and never trained", "--do_train"]),
            (TRAINED.replace("began", "left"), ["built no Student", "its Trainers: NoneType"]),
            (
                TRAINED.replace('"began", None', '"failed", None, "A reason."') + TRAINED,
                ["went on after NoneType had ended in: A reason."],
            ),
        ],
    )
    def test_a_run_in_which_nothing_was_adversarial(self, text, words, pretended, capfd):
        assert run(text, flags=(*FREELB, "--adv_trainer", "Student")) == 2
        (line,) = said(capfd)
        assert all(word in line for word in words), line


class TestEnds:
    @pytest.mark.parametrize("code", [1, 3, 143])
    def test_the_scripts_exit_code_is_that_of_the_command(self, code, work, capfd):
        assert run(f"import sys; sys.exit({code})") == code
        assert said(capfd) == []

    def test_a_crash_shows_its_own_traceback_and_nothing_else(self, work, capfd):
        assert run("def f():\n    raise KeyError('mine')\nf()") == 1
        err = capfd.readouterr().err
        assert err.startswith("Traceback (most recent call last):")
        assert err.rstrip().endswith("KeyError: 'mine'")

    def test_what_kills_the_script_is_said_as_a_shell_does(self, work):
        assert run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)") == 128 + 9

    def test_a_sentence_in_place_of_a_traceback(self, pretended, capfd):
        text = (
            "import transformers.trainer\nfrom nlp_adv import UserError\nraise UserError('Mine.')"
        )
        assert run(text) == 1
        assert capfd.readouterr().err == "nlp-adv run: error: Mine.\n"

    @pytest.mark.parametrize("code", [0, 5])
    def test_a_signal_reaches_the_script_which_decides(self, code, work, capfd):
        text = TRAINED + (
            "import signal, sys, time\n"
            f"signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))\n"
            "os.kill(os.getppid(), signal.SIGTERM)\n"
            "time.sleep(60)"
        )
        before = signal.getsignal(signal.SIGTERM)
        assert run(text) == (130 if code else 0)
        assert signal.getsignal(signal.SIGTERM) is before
        assert len(said(capfd)) == bool(code)


class TestHook:
    def test_the_script_comes_first_and_workers_inherit(self, pretended):
        text = TRAINED + (
            "import multiprocessing, sys\n"
            "def work(number):\n"
            "    from transformers.trainer import Trainer\n"
            "    patched = hasattr(Trainer.__init__, '__wrapped__')\n"
            "    open(f'worker{number}', 'w').write(str(patched))\n"
            "if __name__ == '__main__':\n"
            "    assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
            "    for number, kind in enumerate(('spawn', 'fork')):\n"
            "        context = multiprocessing.get_context(kind)\n"
            "        worker = context.Process(target=work, args=(number,))\n"
            "        worker.start()\n"
            "        worker.join()\n"
        )
        assert run(text) == 0
        assert [Path(f"worker{number}").read_text() for number in (0, 1)] == ["True"] * 2

    def test_a_sitecustomize_that_is_there_runs_as_well(self, pretended, monkeypatch):
        (pretended / "other").mkdir()
        (pretended / "other/sitecustomize.py").write_text("import os; os.environ['THERE'] = '1'")
        monkeypatch.setenv("PYTHONPATH", f"{pretended}/other:{os.environ['PYTHONPATH']}")
        assert run(TRAINED + "assert os.environ['THERE'] == '1'") == 0

    def test_a_process_outside_a_run_is_left_alone(self, pretended):
        hook = Path(nlp_adv.__file__).parent / "run" / "hook"
        environment = os.environ | {"PYTHONPATH": f"{hook}:{os.environ['PYTHONPATH']}"}
        text = "import transformers.trainer as t; print(hasattr(t.Trainer.__init__, '__wrapped__'))"
        command = [sys.executable, "-c", text]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"


REAL = """
import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
assert "transformers" not in sys.modules or "pytest" in sys.modules
import torch
torch.set_num_threads(1)
""" + script("glue").replace(
    "    trainer = main()",
    "    trainer = main()\n"
    "    place = f'{trainer.args.output_dir}-{trainer.args.process_index}.pt'\n"
    "    torch.save(trainer.model.state_dict(), place)",
)
METHOD = [*FREELB, "--adv_steps", "2"]


@pytest.fixture
def real(work, monkeypatch):
    """Writes the script and the same by hand; returns their own flags."""
    Path("outside.py").write_text(REAL, encoding="utf-8")
    Path("by_hand.py").write_text(by_hand(REAL), encoding="utf-8")
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(HERE), str(HERE.parent)])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    flags = "--max_steps 2 --per_device_train_batch_size 4 --learning_rate 1e-3 --use_cpu true"
    return f"{flags} --save_strategy no --report_to none --disable_tqdm true".split()


def weights(name: str) -> list[dict[str, torch.Tensor]]:
    """Of each process."""
    return [torch.load(path) for path in sorted(Path().glob(f"{name}-*.pt"))]


class TestReal:
    """With transformers itself, in processes of their own."""

    def test_one_process(self, real, monkeypatch, capfd):
        assert main(["run", *METHOD, "outside.py", "--output_dir", "outside", *real]) == 0
        assert capfd.readouterr().err.count("nlp-adv run: Trainer trains with --adv freelb") == 1
        monkeypatch.setattr(sys, "argv", ["", "--output_dir", "by_hand", *real, *METHOD])
        runpy.run_path("by_hand.py", run_name="__main__")
        (outside,), (inside,) = weights("outside"), weights("by_hand")
        assert distance(outside, inside) == 0

    @pytest.mark.slow  # ten processes import everything anew; words and hook are held above
    def test_torchrun_on_either_side(self, real):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc_per_node", "2"]
        module = ["-m", "nlp_adv.run", *METHOD]
        commands = {
            "around": [*launcher, *module, "outside.py"],
            "within": [sys.executable, *module, "--", *launcher, "outside.py"],
            "by_hand": [*launcher, "by_hand.py", *METHOD],
        }
        for name, command in commands.items():
            argv = [*command, "--output_dir", name, *real]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-4000:]
            assert done.stderr.count("Trainer trains with --adv freelb") == (name != "by_hand")
        wanted = weights("by_hand")[0]
        for name in commands:
            assert len(weights(name)) == 2
            assert all(distance(one, wanted) == 0 for one in weights(name))
