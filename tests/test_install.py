"""What an install puts where, and what the package says of its extension."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import setuptools
from setuptools import find_packages

from fastgan.ops import _extension

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the sources."""
    source = tmp_path_factory.mktemp("sources") / "source"
    left_out = shutil.ignore_patterns("__pycache__", "*.so", "_build_info.json", "build", "*.egg-info", ".*")
    for name in ("fastgan", "kernels", "csrc", "tests", "bench"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=left_out)
    for path in ROOT.iterdir():
        if (
            path.is_file()
            and path.suffix in ("", ".in", ".md", ".py", ".toml", ".txt")
            and not path.name.startswith(".")
        ):
            shutil.copy(path, source)
    (source / "fastgan" / "tables" / "a-device.json").write_text('{"device": "A Device", "entries": []}')
    return source


@pytest.fixture(scope="module")
def installed(source, tmp_path_factory):
    """A folder with an installed copy of the package, without the extension; built from a copy of the sources."""
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("install")
    environment = os.environ | {"FASTGAN_BUILD_EXTENSION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    pip = [sys.executable, "-m", "pip", "--no-input", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    result = subprocess.run(
        [*pip, "--wheel-dir", str(folder), str(source)], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "target")
    return folder / "target"


def python(installed, code, **environment):
    """Runs code in a fresh interpreter that finds the installed copy first and no checkout; its standard output."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("FASTGAN_")}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=installed,
        env=variables | {"PYTHONPATH": str(installed), **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_wheel_holds_fastgan_and_nothing_else(installed):
    top = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"fastgan"}
    (metadata,) = installed.glob("fastgan-*.dist-info")
    if (metadata / "top_level.txt").exists():
        assert (metadata / "top_level.txt").read_text().split() == ["fastgan"]


def test_a_wheel_holds_every_subpackage_and_the_kernels(installed):
    for package in find_packages(str(ROOT), include=["fastgan", "fastgan.*"]):
        for module in (ROOT / package.replace(".", "/")).glob("*.py"):
            assert (installed / module.relative_to(ROOT)).is_file()
    kernels = {path.name for path in (ROOT / "kernels").glob("*.py")}
    assert kernels == {path.name for path in (installed / "fastgan" / "kernels").glob("*.py")}


def test_a_wheel_holds_the_measured_tables_and_says_that_it_is_typed(installed):
    assert (installed / "fastgan" / "tables" / "a-device.json").is_file()
    assert (installed / "fastgan" / "py.typed").is_file()


def test_a_wheel_names_its_licence(installed):
    (metadata,) = installed.glob("fastgan-*.dist-info")
    assert list(metadata.rglob("LICENSE")) and "MIT" in (metadata / "METADATA").read_text().split("Description", 1)[0]


def test_a_source_distribution_holds_what_a_build_needs(source, tmp_path):
    result = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        held = {name.partition("/")[2] for name in files.getnames()}
    for folder in ("csrc", "kernels", "fastgan"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".cpp", ".cu", ".h", ".py", ".typed"):
                assert path.relative_to(ROOT).as_posix() in held
    assert {"LICENSE", "README.md", "setup.py", "pyproject.toml", "fastgan/tables/a-device.json"} <= held
    assert not any(name.startswith(("tests", "bench")) for name in held)


def test_it_imports_without_extension_compiler_and_triton(installed):
    code = (
        "import sys; sys.modules['triton'] = None; import fastgan, torch; print(fastgan.__file__);"
        "print(fastgan.functional.instance_norm(torch.ones(1, 2, 4, 4), activation='relu').sum().item())"
    )
    where, value = python(installed, code).splitlines()
    assert Path(where) == installed / "fastgan" / "__init__.py" and float(value) == 0


def test_importing_does_not_import_triton(installed):
    code = "import sys; import fastgan; print([name for name in sys.modules if name.split('.')[0] == 'triton'])"
    assert python(installed, code) == "[]"


def test_no_top_level_kernels_leaks(installed):
    code = (
        "import importlib.util, sys; sys.path = [p for p in sys.path if p]; import fastgan.kernels;"
        "names = ['kernels', 'csrc', 'bench'];"
        "print([name for name in names if importlib.util.find_spec(name) is not None])"
    )
    assert python(installed, code) == "[]"


def test_the_record_says_why_there_is_no_extension(installed):
    record = json.loads((installed / "fastgan" / "_build_info.json").read_text())
    assert record == {"built": False, "reason": "the install was made with FASTGAN_BUILD_EXTENSION=0"}
    code = "from fastgan.ops import _extension; print(_extension.load())"
    assert python(installed, code) == "(False, 'not built: the install was made with FASTGAN_BUILD_EXTENSION=0')"


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Lets a test write the build record that the loader reads."""
    monkeypatch.setattr(_extension, "FOLDER", tmp_path)
    _extension.load.cache_clear()
    yield lambda text: (tmp_path / "_build_info.json").write_text(text)
    _extension.load.cache_clear()


def test_loader_without_a_record(record):
    loaded, reason = _extension.load()
    assert not loaded and reason.startswith("not built: this copy was never installed (run: pip install")


def test_loader_with_a_broken_record(record):
    record("{")
    loaded, reason = _extension.load()
    assert not loaded and reason.startswith("not built: its build record") and "cannot be read" in reason


def test_loader_under_another_torch(record):
    record(json.dumps({"built": True, "torch": "1.0.0", "compiler": "g++ 1", "flags": [], "file": "_C.so"}))
    loaded, reason = _extension.load()
    assert not loaded and reason.startswith("built for torch 1.0.0 but running ") and "reinstall fastgan with" in reason


def test_loader_with_a_library_that_is_gone(record):
    import torch

    record(json.dumps({"built": True, "torch": torch.__version__, "compiler": "g++ 1", "flags": [], "file": "_C.so"}))
    loaded, reason = _extension.load()
    assert not loaded and reason.startswith("failed to load: ") and "\n" not in reason


def test_this_install_describes_itself():
    loaded, reason = _extension.load()
    assert reason.startswith("built for torch" if loaded else ("not built: ", "built for torch", "failed to load: "))
    assert loaded == reason.endswith(" in use")


def build(environment, *arguments):
    """Runs setup.py's decisions without building: what it would compile, or why it would not."""
    code = (
        "import sys, runpy, setuptools; setuptools.setup = lambda **kwargs: print(sorted(kwargs));"
        f"sys.argv = {['setup.py', *arguments]!r}; runpy.run_path('setup.py')"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )


def test_no_compiler_means_a_python_install_that_says_so(tmp_path):
    missing = str(tmp_path / "no-such-compiler")
    result = build({"CXX": missing, "FASTGAN_BUILD_EXTENSION": "auto"}, "bdist_wheel")
    assert result.returncode == 0 and "ext_modules" not in result.stdout
    assert f"no C++ compiler was found ({missing} is not on the PATH)" in result.stderr
    required = build({"CXX": missing, "FASTGAN_BUILD_EXTENSION": "1"}, "bdist_wheel")
    assert required.returncode != 0 and "FASTGAN_BUILD_EXTENSION=1, but no C++ compiler was found" in required.stderr


def test_torch_absent_at_build_time_means_a_python_install_that_says_so(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('hidden')")
    result = build({"PYTHONPATH": str(tmp_path), "FASTGAN_BUILD_EXTENSION": "auto"}, "bdist_wheel")
    assert result.returncode == 0 and "ext_modules" not in result.stdout
    assert "torch could not be imported at build time (ImportError: hidden)" in result.stderr


def test_tools_too_old_to_make_a_wheel_are_errors():
    code = (
        "import sys, runpy, importlib.util; importlib.util.find_spec = lambda name: None;"
        "sys.argv = ['setup.py', 'dist_info']; runpy.run_path('setup.py')"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert "makes no wheels without the package wheel: run pip install --upgrade setuptools" in result.stderr


def test_a_cuda_toolkit_has_compiler_and_headers(tmp_path, monkeypatch):
    """torch takes the folder of a script named nvcc for a toolkit, whose headers the build then misses."""
    monkeypatch.setattr(sys, "argv", ["setup.py", "--version"])
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    cuda_toolkit = runpy.run_path(str(ROOT / "setup.py"))["cuda_toolkit"]
    script, toolkit = tmp_path / "script", tmp_path / "toolkit"
    for folder in (script, toolkit):
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "nvcc").touch(mode=0o755)
    (toolkit / "include").mkdir()
    (toolkit / "include" / "cuda_runtime.h").touch()
    assert cuda_toolkit(str(toolkit), str(script)) == cuda_toolkit(str(script), str(toolkit)) == toolkit
    assert cuda_toolkit(None, str(toolkit)) == toolkit and cuda_toolkit(str(script), str(tmp_path)) is None


def test_unknown_mode_is_refused():
    result = build({"FASTGAN_BUILD_EXTENSION": "yes"}, "bdist_wheel")
    assert result.returncode != 0 and "FASTGAN_BUILD_EXTENSION must be 0, 1 or auto, got 'yes'" in result.stderr
