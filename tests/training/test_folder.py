"""What may be written to, and what is left alone."""

import errno
import gc
import io
import multiprocessing
import os
import stat

import pytest
import torch

from fastgan._errors import UserError, sentence
from fastgan._files import unfinished, write_atomically
from fastgan.training import checkpoint
from fastgan.training.folder import RunFolder
from tests.training.tiny_recipe import make_settings, new_loop


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "runs", "mine")


def test_looking_makes_nothing(folder):
    folder.check_new(False)
    assert not folder.path.parent.exists()


def test_a_foreign_folder_is_refused(folder):
    folder.path.mkdir(parents=True)
    folder.check_new(False)  # an empty one will do
    (folder.path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is not a run of ours .* choose another --name"):
            folder.check_new(overwrite)
    (folder.path / "options.json").write_text('{"somebody": "else"}')
    with pytest.raises(UserError, match="is not a run of ours"):
        folder.check_new(True)


def test_a_file_in_the_way(folder):
    folder.path.parent.mkdir()
    folder.path.write_text("")
    with pytest.raises(UserError, match="is not a folder: choose another --name"):
        folder.check_new(True)


def test_a_run_is_replaced_only_when_asked(tmp_path):
    loop = new_loop(tmp_path / "mine", max_steps=1)
    loop.run()
    folder = loop.folder
    (folder.samples / "step_000001.png").write_bytes(b"")
    (folder.path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"already holds a run: .*--resume.*--name.*--overwrite"):
        folder.check_new(False)
    folder.check_new(True)
    folder.start()
    assert sorted(path.name for path in folder.path.rglob("*")) == ["notes.txt", "options.json", "samples"]


def test_a_run_without_a_step_is_in_nobodys_way(folder):
    folder.start()
    make_settings().write(folder.options)
    folder.losses.touch()
    folder.check_new(False)


def test_resume_needs_a_saved_run(folder):
    with pytest.raises(UserError, match="--resume: there is no run in"):
        folder.check_resume()
    folder.start()
    make_settings().write(folder.options)
    with pytest.raises(UserError, match="ended before its first checkpoint; start it again with --overwrite"):
        folder.check_resume()
    folder.checkpoint.touch()
    folder.options.write_text('{"options": dam')  # the checkpoint holds them too
    folder.check_resume()


def test_one_process_trains_in_a_folder(tmp_path):
    pytest.importorskip("fcntl")
    folder, other = RunFolder(tmp_path, "mine"), RunFolder(tmp_path, "mine")
    folder.start()
    for attempt in (other.claim, other.start):
        with pytest.raises(UserError, match="another process is training in .*mine: wait for its end, or choose"):
            attempt()
    del folder  # as at the end of its process
    gc.collect()
    for _ in range(2):
        other.claim()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_process_that_is_forked_holds_no_folder(tmp_path):
    """It may outlive the one that trains."""
    pytest.importorskip("fcntl")
    folder, other = RunFolder(tmp_path, "mine"), RunFolder(tmp_path, "mine")
    folder.start()
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=there.recv)
    child.start()
    try:
        with pytest.raises(UserError, match="another process is training"):  # the child let go of its copy alone
            other.claim()
        del folder
        gc.collect()
        other.claim()
        assert child.is_alive()
    finally:
        here.send(None)
        child.join()


def test_what_a_killed_process_left_half_written_goes(folder):
    folder.samples.mkdir(parents=True)
    halves = (
        ".4711.checkpoint.pt",
        ".4711.checkpoint.previous.pt",
        ".4711.metrics.json",
        "samples/.4711.step_000500.png",
    )
    others = (".old.checkpoint.pt", ".4711.thesis.tex", "4711.checkpoint.pt", "samples/.keep.step_000500.png")
    for name in halves + others:
        (folder.path / name).write_text("half")
    folder.claim()
    assert not any((folder.path / name).exists() for name in halves)
    assert all((folder.path / name).exists() for name in others)


@pytest.mark.parametrize("name", ["step_000500.png", "a.npy", 251 * "n" + ".png", 63 * "𝄞" + ".p"])
def test_a_temporary_file_has_the_suffix_and_no_longer_name(tmp_path, name):
    seen = []
    path = tmp_path / name

    def write(temporary):
        seen.append(temporary)
        temporary.write_text("new")

    write_atomically(path, write)
    (temporary,) = seen
    assert temporary.suffix == path.suffix and path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
    temporary.write_text("half")
    assert unfinished(tmp_path, [name]) == unfinished(tmp_path) == [temporary] and not unfinished(tmp_path, ["other"])


@pytest.fixture
def small_files():
    """No file can grow beyond 4 KiB: what a full disk does, without one."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save_large(path):
    checkpoint.save(
        path,
        description=make_settings().to_json(),
        progress=checkpoint.Progress(),
        rng={},
        data={},
        state={"weights": torch.zeros(10000)},
    )


def test_a_full_disk_is_an_error_and_keeps_what_was_there(tmp_path, small_files):
    path = tmp_path / "checkpoint.pt"
    path.write_text("old")
    with pytest.raises(UserError, match=r"checkpoint.pt cannot be written to its end: the disk may be full$"):
        save_large(path)
    with pytest.raises(OSError) as caught:
        write_atomically(path, lambda temporary: temporary.write_bytes(bytes(10000)))
    assert sentence(caught.value).startswith(f"{path}: ")
    with pytest.raises(OSError) as caught:
        write_atomically(tmp_path / "no" / "file", lambda temporary: temporary.write_bytes(b""))
    assert sentence(caught.value) == f"{tmp_path / 'no' / 'file'}: No such file or directory"
    options = tmp_path / "options.json"
    make_settings().write(options)
    kept = options.read_text()
    with pytest.raises(OSError):
        make_settings(name=5000 * "n", device=5000 * "d").write(options)
    assert options.read_text() == kept and path.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [path, options]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ENODEV, errno.ESTALE])
@pytest.mark.parametrize("at", [0, 1, 4])
def test_only_a_full_disk_is_called_full(tmp_path, monkeypatch, number, at):
    path = tmp_path / "checkpoint.pt"
    real, calls = open, []

    class Failing(io.FileIO):
        def write(self, data):
            calls.append(len(data))
            if len(calls) > at:
                raise OSError(number, os.strerror(number))
            return super().write(data)

    monkeypatch.setattr(
        "builtins.open", lambda name, mode="r": Failing(name, "w") if mode == "wb" else real(name, mode)
    )
    full = "checkpoint.pt cannot be written to its end: the disk may be full"
    says = full if number in (errno.ENOSPC, errno.EDQUOT) else f"{path}: {os.strerror(number)}"
    with pytest.raises((UserError, OSError)) as caught:
        save_large(path)
    assert sentence(caught.value).endswith(says) and not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../up", "/root"])
def test_names_stay_inside(tmp_path, name):
    with pytest.raises(UserError, match="is not a name for a folder inside"):
        RunFolder(tmp_path, name)


def test_an_interrupted_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def refuse(monkeypatch, where, name, number, *, folders):
    """Let a call of the system fail, for folders or for files."""
    real = getattr(where, name)

    def call(first, *arguments, **keywords):
        if isinstance(first, int):
            of_folder = stat.S_ISDIR(os.fstat(first).st_mode)
        else:
            of_folder = os.path.isdir(first)
        if of_folder == folders:
            raise OSError(number, os.strerror(number))
        return real(first, *arguments, **keywords)

    monkeypatch.setattr(where, name, call)


@pytest.mark.parametrize(
    "number",
    [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM, errno.ENOTTY, errno.EISDIR],
)
@pytest.mark.parametrize(
    ("name", "folders"), [("fsync", True), ("fsync", False), ("open", True), ("flock", True), ("link", False)]
)
def test_what_a_file_system_does_not_offer_is_no_error(tmp_path, monkeypatch, number, name, folders):
    fcntl = pytest.importorskip("fcntl")
    refuse(monkeypatch, fcntl if name == "flock" else os, name, number, folders=folders)
    loop = new_loop(tmp_path / "run", max_steps=2, save_freq=1)
    loop.run()
    assert checkpoint.load(loop.folder.checkpoint)["progress"].step == 2
    assert checkpoint.load(loop.folder.previous)["progress"].step == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_data_that_did_not_reach_the_disk_is_an_error(tmp_path, monkeypatch, number):
    path = tmp_path / "file"
    path.write_text("old")
    refuse(monkeypatch, os, "fsync", number, folders=False)
    with pytest.raises(OSError) as caught:
        write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert sentence(caught.value) == f"{path}: {os.strerror(number)}"
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_did_not_reach_the_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    refuse(monkeypatch, os, "fsync", errno.EIO, folders=True)
    with pytest.raises(OSError) as caught:
        write_atomically(tmp_path / "file", lambda temporary: temporary.write_text("new"))
    assert sentence(caught.value) == f"{tmp_path / 'file'}: {os.strerror(errno.EIO)}"


def test_a_run_that_came_in_between_is_not_replaced(tmp_path):
    late = RunFolder(tmp_path, "run")
    late.check_new(False)
    loop = new_loop(tmp_path / "run", max_steps=1)
    loop.run()
    del loop
    gc.collect()  # its process has ended: nothing holds the folder
    with pytest.raises(UserError, match="already holds a run"):
        late.start(overwrite=False)
    assert checkpoint.load(late.checkpoint)["progress"].step == 1


def test_what_was_kept_of_a_run_goes_with_it(tmp_path):
    loop = new_loop(tmp_path / "run", max_steps=2, save_freq=1)
    loop.run()
    folder = loop.folder
    folder.damaged.write_bytes(b"")
    os.remove(folder.checkpoint)
    folder.losses.unlink()
    with pytest.raises(UserError, match="already holds a run"):
        folder.check_new(False)  # the previous checkpoint can be gone on with
    folder.start(overwrite=True)
    assert not folder.previous.exists() and not folder.damaged.exists()
