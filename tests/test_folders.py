"""Output folders: one writer at a time, whole files, names that are no paths."""

import signal
import subprocess
import sys
import threading

import pytest
from filelock import FileLock

from nlp_adv import UserError
from nlp_adv.folders import LOCK, FolderTaken, alone_in, is_empty, unusable_as_name, write_whole

HOLD = """
import sys, time
from nlp_adv.folders import alone_in
with alone_in(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.fault("D4")
class TestOneAtATime:
    def test_another_process_is_kept_out_until_it_ends_however_it_ends(self, tmp_path):
        folder = tmp_path / "out"
        other = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE)
        try:
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(FolderTaken, match="another process writes into it") as caught:
                alone_in(folder).__enter__()
            assert isinstance(caught.value, UserError)
        finally:
            other.send_signal(signal.SIGKILL)
            other.wait()
        assert (folder / LOCK).exists()  # which blocks nobody, and counts for nothing
        assert is_empty(folder)
        with alone_in(folder):
            pass
        assert not (folder / LOCK).exists()

    def test_another_thread_is_kept_out(self, tmp_path):
        found = []

        def enter():
            try:
                with alone_in(tmp_path):
                    found.append("in")
            except FolderTaken:
                found.append("out")

        with alone_in(tmp_path):
            thread = threading.Thread(target=enter)
            thread.start()
            thread.join()
        enter()
        assert found == ["out", "in"]

    def test_what_a_command_calls_may_hold_it_again(self, tmp_path):
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "out", target_is_directory=True)
        (tmp_path / "out").mkdir()
        with alone_in(tmp_path / "out"):
            with alone_in(link), alone_in(tmp_path / "out" / ".." / "out"):
                pass
            assert (tmp_path / "out" / LOCK).exists()
        assert not (tmp_path / "out" / LOCK).exists()

    @pytest.mark.parametrize("error", [None, UserError("no"), KeyboardInterrupt()])
    def test_a_folder_that_stays_empty_is_not_left(self, tmp_path, error):
        try:
            with alone_in(tmp_path / "a" / "b"):
                assert (tmp_path / "a" / "b").is_dir()
                if error is not None:
                    raise error
        except (UserError, KeyboardInterrupt):
            pass
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_was_there_or_is_used_is_left(self, tmp_path):
        with alone_in(tmp_path):
            pass
        assert tmp_path.is_dir()
        with alone_in(tmp_path / "a" / "b"):
            (tmp_path / "a" / "b" / "file").write_text("mine")
        assert (tmp_path / "a" / "b" / "file").exists()

    def test_a_file_in_its_place(self, tmp_path):
        (tmp_path / "out").write_text("mine")
        for folder in (tmp_path / "out", tmp_path / "out" / "inner"):
            with pytest.raises(UserError, match="cannot be used"), alone_in(folder):
                pass
        assert (tmp_path / "out").read_text() == "mine"

    def test_a_lock_that_is_a_link_is_not_followed(self, tmp_path):
        (tmp_path / "precious").write_text("mine")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / LOCK).symlink_to(tmp_path / "precious")
        with pytest.raises(UserError, match="cannot be used"), alone_in(tmp_path / "out"):
            pass
        assert (tmp_path / "precious").read_text() == "mine"


class TestWholeFiles:
    def test_a_file_is_there_whole_or_as_before(self, tmp_path, monkeypatch):
        path = tmp_path / "file.json"
        write_whole(path, "before")

        def full(self, data):
            with open(self, "wb") as file:
                file.write(data[:3])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, "after and longer")
        assert path.read_text() == "before"
        assert list(tmp_path.iterdir()) == [path]

    def test_bytes_and_halves_of_surrogate_pairs(self, tmp_path):
        write_whole(tmp_path / "a", b"\xff\x00")
        assert (tmp_path / "a").read_bytes() == b"\xff\x00"
        write_whole(tmp_path / "b", "\ud800é")
        assert (tmp_path / "b").read_bytes() == "\\ud800é".encode()


@pytest.mark.fault("D3")
def test_a_usable_name_stays_inside(tmp_path):
    """Whatever is not refused names an entry of the folder and nothing else."""
    for name in ("a", "a b", "ё", "a..b", "é", "..", ".", "", "/", "a/..", "\0", "~", "x\\..\\y"):
        if unusable_as_name(name) is None:
            assert (tmp_path / name).resolve().parent == tmp_path.resolve()
            (tmp_path / name).mkdir()


@pytest.mark.fault("D4")
def test_a_lock_held_by_the_library_is_the_same_lock(tmp_path):
    """The name of the file is what other versions and tools agree on."""
    with FileLock(tmp_path / ".lock"), pytest.raises(FolderTaken), alone_in(tmp_path):
        pass
