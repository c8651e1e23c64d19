"""What may be written to, and what is left alone."""

import pytest

from fastgan.engine.command import UserError
from fastgan.engine.files import write_atomically
from fastgan.engine.folder import RunFolder
from tests.engine.tiny_recipe import make_settings, new_loop


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
