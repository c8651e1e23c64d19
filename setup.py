"""Installs ``fastgan`` and builds its compiled ops.

``pip install --no-build-isolation .`` (or ``-e .``) builds against the torch that is already installed. The CPU
extension is built whenever torch and a C++ compiler are there; the CUDA sources join it when torch was built for CUDA
and a CUDA toolkit is there. Without them, or when the build fails, the install is pure Python and works; what happened
is written to ``fastgan/_build_info.json``, which ``python -m fastgan.info`` reads.

Environment: ``FASTGAN_BUILD_EXTENSION=0`` skips the build, ``=1`` makes a missing or failed build an error (``auto``,
the default, falls back). ``CXX`` chooses the compiler, ``FASTGAN_CXX_FLAGS`` adds flags for it, ``MAX_JOBS`` is the
number of parallel compilations. ``TORCH_CUDA_ARCH_LIST`` names the GPUs to compile for (default: all that the kernels
run on), ``CUDA_HOME`` the toolkit.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import setuptools
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
INFO_FILE = "_build_info.json"
CXX_FLAGS = ["-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unknown-pragmas"]
# A100 and what follows it (as PTX), H100 and H200, B200.
CUDA_TARGETS = "8.0+PTX;9.0a;10.0"
# Commands that only ask for metadata: they must not pay for importing torch.
METADATA_COMMANDS = {"egg_info", "dist_info", "sdist", "clean", "--name", "--version", "--help"}


class CannotBuild(Exception):
    """The extension cannot be built here; the message says why."""


def version() -> str:
    text = (ROOT / "fastgan" / "_version.py").read_text()
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


def packages() -> tuple[list[str], dict[str, str]]:
    """fastgan with its subpackages, and the folder ``kernels`` as ``fastgan.kernels``."""
    names = find_packages(str(ROOT), include=["fastgan", "fastgan.*"])
    kernels = ["fastgan.kernels", *(f"fastgan.kernels.{name}" for name in find_packages(str(ROOT / "kernels")))]
    return names + kernels, {"fastgan": "fastgan", "fastgan.kernels": "kernels"}


def mode() -> str:
    value = os.environ.get("FASTGAN_BUILD_EXTENSION", "auto")
    if value not in ("0", "1", "auto"):
        raise SystemExit(f"FASTGAN_BUILD_EXTENSION must be 0, 1 or auto, got {value!r}")
    return value


def compiler() -> str:
    """The C++ compiler's name and version; raises CannotBuild where there is none."""
    if platform.system() == "Windows":
        if shutil.which("cl") is None:
            raise CannotBuild("no C++ compiler was found (cl is not on the PATH)")
        return "MSVC"
    command = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    if shutil.which(command[0]) is None:
        raise CannotBuild(f"no C++ compiler was found ({command[0]} is not on the PATH)")
    try:
        output = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotBuild(f"the C++ compiler {command[0]} does not run: {error}") from error
    first = output.splitlines()[0] if output else command[0]
    number = re.search(r"\d+\.\d+(\.\d+)?", re.sub(r"\(.*?\)", "", first))
    name = "clang" if "clang" in first else "g++" if "Free Software" in output else Path(command[0]).name
    return f"{name} {number.group(0)}" if number else name


def plan() -> tuple[list, type, dict]:
    """The extension modules, the ``build_ext`` command, and the record of what they are built for."""
    try:
        import torch
        from torch.utils import cpp_extension
    except Exception as error:
        raise CannotBuild(f"torch could not be imported at build time ({type(error).__name__}: {error})") from error
    cxx = compiler()
    flags = (["/O2"] if cxx == "MSVC" else CXX_FLAGS) + shlex.split(os.environ.get("FASTGAN_CXX_FLAGS", ""))
    sources = [source for source in relative_sources("*.cpp") if not source.startswith("csrc/cuda/")]
    headers = relative_sources("*.h")
    toolkit = cuda_toolkit(cpp_extension.CUDA_HOME) if torch.version.cuda is not None else None
    with_cuda = toolkit is not None
    if with_cuda:
        cpp_extension.CUDA_HOME, nvcc = str(toolkit), shutil.which("nvcc", path=str(toolkit / "bin"))
        sources, headers = relative_sources("*.cpp", "*.cu"), relative_sources("*.h", "*.cuh")
        kind, arguments = cpp_extension.CUDAExtension, {"nvcc": ["-O3", *cuda_targets(nvcc)]}
    else:
        kind, arguments = cpp_extension.CppExtension, {}
    extension = kind(
        "fastgan._C",
        sources,
        depends=headers,
        include_dirs=[str(ROOT / "csrc")],
        py_limited_api=True,
        extra_compile_args={"cxx": list(flags), **arguments},
    )
    record = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda if with_cuda else None,
        "compiler": cxx,
        "flags": flags,
    }
    return [extension], cpp_extension.BuildExtension.with_options(no_python_abi_suffix=True), record


def cuda_toolkit(guess: str | None, standard: str = "/usr/local/cuda") -> Path | None:
    """The folder of a toolkit, with compiler and headers: torch's guess, which is where nvcc lies on the PATH and may
    hold nothing but a script that calls it, or the standard folder; None where neither is one."""
    for folder in map(Path, filter(None, (guess, standard))):
        if shutil.which("nvcc", path=str(folder / "bin")) and (folder / "include" / "cuda_runtime.h").is_file():
            return folder
    return None


def cuda_targets(nvcc: str) -> list[str]:
    """nvcc's flags for the GPUs that the kernels are compiled for: those of TORCH_CUDA_ARCH_LIST as far as the kernels
    run there (compute capability 8.0), else all of CUDA_TARGETS that this nvcc knows."""
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    targets = re.findall(r"(\d+)\.(\d[a-z]?)(\+PTX)?", listed or CUDA_TARGETS)
    if not listed:
        try:
            known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
        except (OSError, subprocess.CalledProcessError) as error:
            raise CannotBuild(f"the CUDA compiler {nvcc} does not run: {error}") from error
        targets = [target for target in targets if "sm_" + re.sub(r"\D", "", target[0] + target[1]) in known]
    flags = []
    for major, minor, ptx in targets:
        if int(major) >= 8:
            flags += [f"-gencode=arch=compute_{major}{minor},code=sm_{major}{minor}"]
            flags += [f"-gencode=arch=compute_{major}{minor},code=compute_{major}{minor}"] if ptx else []
    if targets and not flags:
        raise CannotBuild(f"TORCH_CUDA_ARCH_LIST={listed!r} names no GPU of compute capability 8.0 or later")
    return flags  # empty for names such as "Ampere" or "native", which torch spells out


def relative_sources(*patterns: str) -> list[str]:
    """The files of csrc and its folders, relative to the repository."""
    paths = [path for pattern in patterns for path in (ROOT / "csrc").rglob(pattern)]
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def write_info(folder: Path, info: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INFO_FILE).write_text(json.dumps(info, indent=2) + "\n")


def announce(reason: str) -> None:
    print(f"fastgan: installing without the compiled ops, because {reason}", file=sys.stderr, flush=True)


def build_py_with_info(reason: str) -> type:
    """A ``build_py`` that records why there is no extension; a successful ``build_ext`` then replaces the record."""

    class BuildPy(build_py):
        def run(self) -> None:
            super().run()
            folder = ROOT / "fastgan" if self.editable_mode else Path(self.build_lib) / "fastgan"
            write_info(folder, {"built": False, "reason": reason})

    return BuildPy


def build_ext_with_fallback(base: type, record: dict, required: bool) -> type:
    """``base`` with its result recorded, and with a failure turned into a pure-Python install unless required."""

    class BuildExt(base):
        def run(self) -> None:
            folder = ROOT / "fastgan" if self.inplace else Path(self.build_lib) / "fastgan"
            try:
                super().run()
            except (Exception, SystemExit) as error:
                if required:
                    raise
                first_line = (str(error).splitlines() or [""])[0]
                reason = f"the build failed ({type(error).__name__}: {first_line})"
                announce(reason + "; see the compiler's messages above")
                self.extensions = []
                write_info(folder, {"built": False, "reason": reason})
                return
            name = Path(self.get_ext_filename("fastgan._C")).name
            write_info(folder, {"built": True, "file": name, **record})

    return BuildExt


def check_tools() -> None:
    """Stop with a sentence where setuptools cannot make wheels: those before 70.1 need the package wheel for it."""
    if not {"dist_info", "bdist_wheel", "editable_wheel"} & set(sys.argv[1:]):
        return
    if find_spec("setuptools.command.bdist_wheel") is None and find_spec("wheel") is None:
        raise SystemExit(
            f"fastgan: setuptools {setuptools.__version__} makes no wheels without the package wheel: run "
            "pip install --upgrade setuptools"
        )


def build_options() -> dict:
    """What ``setup`` needs to build the extension, or to leave it out."""
    if METADATA_COMMANDS & set(sys.argv[1:]):
        return {}
    wanted = mode()
    if wanted == "0":
        return {"cmdclass": {"build_py": build_py_with_info("the install was made with FASTGAN_BUILD_EXTENSION=0")}}
    try:
        extensions, base, record = plan()
    except CannotBuild as error:
        if wanted == "1":
            raise SystemExit(f"fastgan: FASTGAN_BUILD_EXTENSION=1, but {error}") from error
        announce(str(error))
        return {"cmdclass": {"build_py": build_py_with_info(str(error))}}
    return {
        "ext_modules": extensions,
        "cmdclass": {
            "build_py": build_py_with_info("the build did not finish"),
            "build_ext": build_ext_with_fallback(base, record, required=wanted == "1"),
        },
    }


check_tools()
names, folders = packages()
setup(
    version=version(),
    license="MIT",  # here, as setuptools before 77 knows no licence expression in pyproject.toml
    packages=names,
    package_dir=folders,
    package_data={"fastgan": ["py.typed"], "fastgan.tables": ["*.json"]},
    **build_options(),
)
