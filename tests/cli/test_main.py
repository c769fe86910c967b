"""How a command ends: its exit code and its one line, whatever stops it."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import BRIEF, flags

import nlp_adv
from nlp_adv.cli import main as cli
from nlp_adv.errors import UserError

pytestmark = pytest.mark.fault("D8")
HERE = str(Path(nlp_adv.__file__).parents[1])


@pytest.fixture
def ends(monkeypatch, capsys):
    """Runs a command that does what it is given; returns the code and the lines of stderr."""

    def run(act, *argv: str) -> tuple[int, list[str]]:
        module = SimpleNamespace(main=lambda rest: act())
        monkeypatch.setattr(cli, "import_module", lambda name: module)
        code = cli.main([*(argv or ["train"])])
        return code, capsys.readouterr().err.splitlines()

    return run


def raising(error: BaseException):
    def act() -> None:
        raise error

    return act


def within(module: str, source: str, **names: object):
    """An act of a module of that name."""
    return lambda: exec(source, {"__name__": module, **names})


class TestFaultsOfThisPackage:
    @pytest.mark.parametrize(
        "fault",
        [
            "len(None)",
            "{}['key']",
            "int('x')",
            "[][0]",
            "None.nothing",
            "assert False",
            "torch.zeros(2) @ torch.zeros(3)",
        ],
    )
    def test_they_are_called_bugs(self, ends, fault):
        code, lines = ends(within("nlp_adv.somewhere", fault, torch=torch))
        assert code == 1
        assert len(lines) == 1
        assert lines[0].startswith("nlp-adv train: this is a bug in nlp-adv (")
        assert "--debug" in lines[0]

    def test_debug_shows_where(self, ends):
        code, lines = ends(lambda: len(None), "train", "--debug")
        assert code == 1
        assert lines[0].startswith("Traceback")
        assert "--debug" not in lines[-1]

    def test_debug_shows_the_traceback_of_a_user_error_as_well(self, ends):
        code, lines = ends(raising(UserError("No.")), "--debug", "train")
        assert code == 2
        assert lines[0].startswith("Traceback")
        assert lines[-1] == "nlp-adv train: error: No."

    def test_the_flag_of_transformers_of_that_name_is_left_to_it(self, monkeypatch, capsys):
        seen = []
        module = SimpleNamespace(main=seen.extend)
        monkeypatch.setattr(cli, "import_module", lambda name: module)
        assert cli.main(["train", "--debug", "underflow_overflow", "--debug"]) == 0
        assert seen == ["--debug", "underflow_overflow"]


class TestWhatLibrariesRaise:
    @pytest.mark.parametrize(
        ("error", "says"),
        [
            (OSError(errno.ENOSPC, "No space left on device", "out/x"), "out/x: the disk is full"),
            (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
            (OSError(errno.EROFS, "Read-only file system", "out"), "may not be read or written"),
            (PermissionError(errno.EACCES, "Permission denied", "out"), "permissions"),
            (FileNotFoundError(errno.ENOENT, "No such file", "a"), "a: No such file; check"),
            (MemoryError(), "--per_device_train_batch_size"),
            (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "memory"),
            (torch.OutOfMemoryError("CUDA out of memory."), "smaller batches"),
            (ModuleNotFoundError("No module named 'wandb'", name="wandb"), "pip install wandb"),
            (ConnectionError("offline"), "Hub"),
            (EOFError("Ran out of input"), "damaged"),
            (IndexError("index out of range in self"), "embeddings"),
            (ValueError("Pick another."), "Pick another (--debug"),
            (RuntimeError("It needs a thing."), "It needs a thing (--debug"),
            (NotImplementedError("Not for\nthis model."), "Not for this model (--debug"),
        ],
        ids=str,
    )
    def test_it_is_one_sentence(self, ends, error, says):
        code, lines = ends(within("transformers.somewhere", "raise error", error=error))
        assert code == 2
        assert len(lines) == 1
        assert lines[0].startswith("nlp-adv train: error: ")
        assert says in lines[0]
        assert lines[0].endswith(".")

    def test_what_this_package_raises_on_purpose_is_a_sentence(self, ends):
        said = within("nlp_adv.somewhere", "raise ValueError('epsilon is -1.')")
        assert ends(said) == (2, ["nlp-adv train: error: epsilon is -1 (--debug shows where)."])

    def test_what_a_worker_raised_is_said_without_its_traceback(self, ends):
        class Unreadable(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return 1

            def __getitem__(self, index: int) -> int:
                raise UserError("Image 3 cannot be read.")

        loader = torch.utils.data.DataLoader(Unreadable(), num_workers=1)
        assert ends(lambda: list(loader)) == (
            2,
            ["nlp-adv train: error: Image 3 cannot be read."],
        )

    def test_a_package_of_ours_that_is_missing_is_a_bug(self, ends):
        error = ModuleNotFoundError("No module named 'nlp_adv.x'", name="nlp_adv.x")
        assert ends(raising(error))[0] == 1


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("command", [*cli.COMMANDS])
    def test_it_is_130_and_one_line(self, ends, command, number):
        before = signal.getsignal(number)
        code, lines = ends(lambda: os.kill(os.getpid(), number), command)
        assert code == 130
        assert len(lines) == 1
        assert lines[0].startswith(f"nlp-adv {command}: stopped; ")
        assert signal.getsignal(number) is before

    def test_what_a_library_makes_of_it_does_not_matter(self, ends):
        def act() -> None:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise RuntimeError("a worker exited unexpectedly") from None

        assert ends(act)[0] == 130

    def test_a_forked_worker_ends_at_once(self, ends):
        def act() -> None:
            child = os.fork()
            if child == 0:
                os.kill(os.getpid(), signal.SIGTERM)
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM

        assert ends(act) == (0, [])

    def test_it_runs_in_a_thread(self, ends):
        codes = []
        thread = threading.Thread(target=lambda: codes.append(ends(lambda: None)[0]))
        thread.start()
        thread.join()
        assert codes == [0]


def begun(*argv: str, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": HERE, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "nlp_adv.cli.main", *argv],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,
    )


@pytest.mark.slow  # other processes import everything anew
class TestProcesses:
    def test_ctrl_c_in_training_with_workers(self, work, files):
        settings = {**files, **BRIEF, "max_steps": 10**6, "dataloader_num_workers": 2}
        process = begun("train", *flags(settings | {"output_dir": "out", "use_cpu": True}))
        seen = []
        for line in process.stderr:
            seen.append(line)
            if line.startswith("Training with"):
                break
        time.sleep(5)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith("nlp-adv train: stopped; ")
        assert err.count("nlp-adv train:") == 1

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("after", [0.7, 2.5])
    def test_a_signal_during_the_imports(self, work, number, after):
        process = begun("sweep")
        time.sleep(after)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 130, err
        assert [line[:23] for line in err.splitlines()] == ["nlp-adv sweep: stopped;"]

    @pytest.mark.parametrize("argv", [["train", "--help"], ["--help"]])
    def test_a_reader_that_goes_away(self, work, argv):
        reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
        reader.wait()
        environment = os.environ | {"PYTHONPATH": HERE}
        run = subprocess.run(
            [sys.executable, "-m", "nlp_adv.cli.main", *argv],
            env=environment,
            stdout=reader.stdin,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert run.returncode in (0, 141)  # argparse may keep it to itself
        assert run.stderr == ""

    def test_a_full_disk(self, work, files):
        """A limit on the size of files, which the system reports as it does a full disk."""
        settings = {
            **files,
            **BRIEF,
            "output_dir": "out",
            "use_cpu": True,
            "save_strategy": "steps",
        }
        argv = flags(settings | {"save_steps": 2})
        limited = ["bash", "-c", 'ulimit -f 8; exec "$@"', "-", sys.executable, "-m"]
        environment = os.environ | {"PYTHONPATH": HERE, "HF_DATASETS_CACHE": str(work / "cache")}
        run = subprocess.run(
            [*limited, "nlp_adv.cli.main", "train", *argv],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 2, run.stderr
        assert "Traceback" not in run.stderr
        assert "disk is full or a limit is reached" in run.stderr.splitlines()[-1]
