"""What a file of torch.save says that it holds, read without making any of it: no code runs and no memory is taken.

``torch.load(weights_only=True)`` runs no code either, but it allocates whatever sizes a file states, and says of most
pickles that hold code only that it cannot read them.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import IO, Any

import torch

_MOST_VALUES = 2_000_000  # in all, counted as often as they are used; an optimizer of a large network has 10,000
_DEEPEST = 100  # of values in values
_MOST_USES = 16  # of the bytes of a file by its tensors, which may share them
_UNPACKED = 8  # times the length of a zip file that its parts may have; torch does not compress
_ITEM_BYTES = {
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
    "ComplexDouble": 16,
    "ComplexFloat": 8,
    "QInt32": 4,
    "QInt8": 1,
    "QUInt8": 1,
    "QUInt4x2": 1,
    "QUInt2x4": 1,
    "Untyped": 1,
}


class ForeignObject(ValueError):
    """A pickle asks for something else than tensors and plain values. The message is its full name."""


class Excessive(ValueError):
    """A file says that it holds more than it can."""


@dataclass(frozen=True)
class TensorOutline:
    """A tensor in an outline."""

    shape: tuple[int, ...]


def outline(file: IO[bytes]) -> Any:
    """What a file holds that was written by ``torch.save``, in either of its forms, with outlines of the tensors.

    Raises:
        ForeignObject: it holds something else than tensors and plain values, code above all.
        Excessive: its tensors, or its parts, are larger than the file allows.
        Exception: it was not written by ``torch.save``, or is damaged.
    """
    length = file.seek(0, 2)
    file.seek(0)
    zipped = file.read(2) == b"PK"
    file.seek(0)
    content = _zipped(file, length) if zipped else _in_sequence(file, length)
    _check_values(content)
    return content


def is_pickle(file: IO[bytes]) -> bool:
    """Whether a file is a pickle of plain values, whatever wrote it."""
    length = file.seek(0, 2)
    file.seek(0)
    try:
        _Unpickler(_Bounded(file, length), length).load()
    except Exception:
        return False
    return length > 2


def _zipped(file: IO[bytes], length: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if sum(part.file_size for part in parts) > _UNPACKED * length:
            raise Excessive("its parts are packed: they would take many times the length of the file")
        if archive.testzip() is not None:  # torch writes CRC-32s, and does not look at them
            raise ValueError("a part is not what its CRC-32 says")
        (described,) = [part for part in parts if part.filename.endswith("/data.pkl")]
        with archive.open(described) as stream:
            return _Unpickler(_Bounded(stream, described.file_size), length).load()


def _in_sequence(file: IO[bytes], length: int) -> Any:
    """The form of files before torch 1.6: pickles of a magic number, a version, the system, and the content."""
    bounded = _Bounded(file, length)
    if _Unpickler(bounded, length).load() != torch.serialization.MAGIC_NUMBER:
        raise ValueError("another magic number")
    for _ in range(2):
        _Unpickler(bounded, length).load()
    content = _Unpickler(bounded, length).load()
    _Unpickler(bounded, length).load()
    return content


class _Bounded:
    """A stream of which no more can be asked for than it has."""

    def __init__(self, stream: IO[bytes], length: int):
        self._stream, self._left = stream, length

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self._left:
            raise EOFError
        self._left -= count
        return self._stream.read(count)

    def readline(self) -> bytes:
        line = self._stream.readline()
        self._left -= len(line)
        return line


@dataclass(frozen=True)
class _Storage:
    length: int
    item_bytes: int


@dataclass(frozen=True)
class _StorageType:
    item_bytes: int


class _Unpickler(pickle._Unpickler):  # the one in C takes memory for any index of its memo
    """Calls nothing but what :meth:`find_class` gives: builtin types, which a pickle cannot change, and methods."""

    dispatch = {  # noqa: RUF012
        code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]
    }  # without what takes memory of any size

    def __init__(self, stream: _Bounded, length: int):
        super().__init__(stream)
        self._length = length  # of the file
        self._used = 0  # bytes of the tensors
        self._stored = 0  # bytes of the storages
        self._storages: dict[Any, int] = {}  # bytes by key

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in self._known():
            return self._known()[full]
        if module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage"):
            item_bytes = _ITEM_BYTES.get(name.removesuffix("Storage"))
            if item_bytes is not None:
                return _StorageType(item_bytes)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return None
        raise ForeignObject(full)

    def _known(self) -> dict[str, Callable[..., Any]]:
        nothing = _Nothing()
        return {
            "collections.OrderedDict": OrderedDict,
            "collections.Counter": dict,
            "builtins.set": set,
            "__builtin__.set": set,
            "builtins.complex": complex,
            "__builtin__.complex": complex,
            "_codecs.encode": nothing,
            "torch.Size": tuple,
            "torch.device": nothing,
            "torch.serialization._get_layout": nothing,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor,
            "torch._utils._rebuild_qtensor": self._tensor,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch._utils._rebuild_parameter_with_state": self._parameter,
            "torch._utils._rebuild_sparse_tensor": nothing,
            "torch._tensor._rebuild_from_type_v2": self._from_type,
        }

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, length, *_ = pid
        if not isinstance(kind, _StorageType) or not isinstance(length, int) or length < 0:
            raise ValueError("no storage")
        self._stored += length * kind.item_bytes - self._storages.get(key, 0)
        self._storages[key] = length * kind.item_bytes
        if self._stored > self._length:
            raise Excessive("its tensors would be larger than the file itself")
        return _Storage(length, kind.item_bytes)

    def _tensor(self, storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> TensorOutline:
        shape, count = tuple(size), prod(size)
        if not isinstance(storage, _Storage) or min([offset, *size, *stride]) < 0:
            raise ValueError("no tensor")
        if count and offset + sum((n - 1) * step for n, step in zip(size, stride)) >= storage.length:
            raise Excessive("its tensors would be larger than what it holds of them")
        self._used += count * storage.item_bytes
        if self._used > _MOST_USES * self._length:
            raise Excessive("its tensors would be larger than the file itself")
        return TensorOutline(shape)

    def _parameter(self, data: Any, *_: Any) -> Any:
        return data

    def _from_type(self, function: Any, _: Any, arguments: Any, __: Any) -> Any:
        return function(*arguments)


class _Nothing:
    """Takes anything and gives nothing; has no attribute that could be set."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> None:
        return None


def _check_values(content: Any) -> None:
    """Raises Excessive for more values than a file needs, or values that hold themselves."""
    left, waiting = _MOST_VALUES, [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        left -= 1 + len(inner)
        if left < 0 or depth > _DEEPEST:
            raise Excessive("its values hold each other without an end")
        waiting += [(each, depth + 1) for each in inner]
