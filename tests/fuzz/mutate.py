"""A bad file made of a good one, by a number that says which."""

from __future__ import annotations

import random

_NUMBERS = (0, 1, 2, 4, 127, 128, 255, 256, 32767, 32768, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def mutated(content: bytes, generator: random.Random) -> bytes:
    """``content`` with one to eight changes; more than half of them to its first hundred bytes, where headers are."""
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 3, 5, 8))):
        if not changed:
            break
        most = min(len(changed), 100) if generator.random() < 0.6 else len(changed)
        generator.choice(_CHANGES)(changed, generator.randrange(most), generator)
    return bytes(changed)


def _flip(content: bytearray, place: int, generator: random.Random) -> None:
    content[place] ^= 1 << generator.randrange(8)


def _byte(content: bytearray, place: int, generator: random.Random) -> None:
    content[place] = generator.randrange(256)


def _number(content: bytearray, place: int, generator: random.Random) -> None:
    size, order = generator.choice((2, 4, 8)), generator.choice(("big", "little"))
    value = generator.choice(_NUMBERS) % (1 << 8 * size)
    content[place : place + size] = value.to_bytes(size, order)[: len(content) - place]


def _cut(content: bytearray, place: int, generator: random.Random) -> None:
    del content[place:]


def _remove(content: bytearray, place: int, generator: random.Random) -> None:
    del content[place : place + generator.randrange(1, 20)]


def _insert(content: bytearray, place: int, generator: random.Random) -> None:
    content[place:place] = generator.randbytes(generator.randrange(1, 20))


def _repeat(content: bytearray, place: int, generator: random.Random) -> None:
    content[place:place] = content[place : place + generator.randrange(1, 200)]


_CHANGES = (_flip, _flip, _byte, _byte, _number, _number, _number, _cut, _remove, _insert, _repeat)
