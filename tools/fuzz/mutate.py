"""Valid bytes, text and JSON made wrong, by a generator that is seeded."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

NUMBERS = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**63,
    2**64 - 1,
)
"""Where lengths, offsets and counts go wrong."""

WORDS = (
    "",
    " ",
    "0",
    "-0",
    "-1",
    "1e309",
    "nan",
    "-inf",
    "0x10",
    "1_000",
    "٣",
    "９９",
    "99999999999999999999999",
    "9" * 400,
    "9" * 5000,
    "a" * 5000,
    "\x00",
    "\ufeff",
    "\u202e",
    "\ud7ff\U0010ffff",
    "é",
    "../../etc/passwd",
    "/dev/null",
    "C:\\a",
    "%s%n",
    "{}",
    "<b>",
    "&amp;",
    "'; --",
    "\n",
    "\r",
    "\u2028",
    "None",
    "true",
    ",",
    ":",
    "=",
    '"',
)
"""What stands in the place of a word."""

VALUES: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: True,
    lambda: 0,
    lambda: -1,
    lambda: 1.5,
    lambda: 10**30,
    lambda: math.nan,
    lambda: math.inf,
    lambda: "",
    lambda: "a\nb",
    lambda: "\x00",
    lambda: "\ud800",
    lambda: "9" * 5000,
    list,
    dict,
    lambda: [None],
    lambda: [[[1]]],
    lambda: {"": {}},
)
"""What stands in the place of a JSON value."""


def some_bytes(content: bytes, chance: Random, others: Sequence[bytes] = ()) -> bytes:
    """A file with one to a dozen faults: bits, numbers, ranges, its end, or another file's half."""
    out = bytearray(content)
    for _ in range(min(12, 1 + int(chance.expovariate(0.5)))):
        if not out:
            break
        _break(out, chance, others)
    return bytes(out)


def _break(out: bytearray, chance: Random, others: Sequence[bytes]) -> None:
    place = _place(out, chance)
    length = min(len(out) - place, 1 + int(chance.expovariate(1 / 16)))
    kind = chance.randrange(11)
    if kind == 0:
        out[place] ^= 1 << chance.randrange(8)
    elif kind == 1:
        out[place] = chance.randrange(256)
    elif kind in (2, 3, 4):
        size, order = chance.choice((1, 2, 4, 8)), chance.choice(("little", "big"))
        number = chance.choice(NUMBERS) + chance.choice((0, 0, -1, 1))
        number %= 1 << (8 * size)
        out[place : place + size] = number.to_bytes(size, order)
    elif kind == 5:
        del out[place:]
    elif kind == 6:
        del out[place : place + length]
    elif kind == 7:
        out[place:place] = out[place : place + length] * chance.choice((1, 1, 2, 50))
    elif kind == 8:
        out[place : place + length] = chance.randbytes(length)
    elif kind == 9:
        out[place : place + length] = bytes(length)
    elif others:
        other = chance.choice(others)
        out[place:] = other[chance.randrange(len(other) or 1) :]


def _place(out: bytearray, chance: Random) -> int:
    """Somewhere, half of the time within what is likely to be the head."""
    return chance.randrange(min(len(out), 64) if chance.random() < 0.5 else len(out))


def with_png_sums(content: bytes) -> bytes:
    """A PNG with the check sums of its chunks put right, so that a fault within one is read."""
    out, place = bytearray(content), 8
    while place + 12 <= len(out):
        (length,) = struct.unpack_from(">I", out, place)
        end = place + 8 + length
        if end + 4 > len(out):
            break
        struct.pack_into(">I", out, end, zlib.crc32(out[place + 4 : end]))
        place = end + 4
    return bytes(out)


def some_text(text: str, chance: Random) -> str:
    """A text with words, lines or signs changed."""
    for _ in range(min(6, 1 + int(chance.expovariate(0.7)))):
        kind = chance.randrange(7)
        if kind < 3:
            text = _word_changed(text, chance)
        elif kind == 3:
            lines = text.splitlines(keepends=True) or [""]
            place = chance.randrange(len(lines))
            lines[place : place + 1] = chance.choice(([], lines[place : place + 1] * 2, ["\n"], lines[::-1]))
            text = "".join(lines)
        elif kind == 4:
            text = text[: chance.randrange(len(text) + 1)]
        elif kind == 5:
            place = chance.randrange(len(text) + 1)
            text = text[:place] + chance.choice(WORDS) + text[place:]
        else:
            place = chance.randrange(len(text) + 1)
            text = (
                text[:place] + chr(chance.choice((chance.randrange(128), chance.randrange(0xD800)))) + text[place + 1 :]
            )
    return text


def _word_changed(text: str, chance: Random) -> str:
    """A run of letters or digits replaced."""
    if not text:
        return chance.choice(WORDS)
    start = chance.randrange(len(text))
    stop = start
    while start > 0 and text[start - 1].isalnum():
        start -= 1
    while stop < len(text) and (text[stop].isalnum() or text[stop] in ".-"):
        stop += 1
    return text[:start] + chance.choice(WORDS) + text[max(stop, start + 1) :]


def encoded(text: str, chance: Random) -> bytes:
    """The text as a file, seldom in another code than UTF-8."""
    code = chance.choice(("utf-8",) * 12 + ("utf-16", "latin-1", "utf-8-sig", "utf-32"))
    return text.encode(code, errors="replace" if code == "latin-1" else "surrogatepass")


def some_json(content: Any, chance: Random) -> Any:
    """A JSON value with nodes replaced, dropped, renamed or doubled; the given one stays as it is."""
    content = json.loads(json.dumps(content))
    for _ in range(min(6, 1 + int(chance.expovariate(0.7)))):
        content = _node_changed(content, chance)
    return content


def _node_changed(content: Any, chance: Random) -> Any:
    holders = list(_holders(content))
    if not holders or chance.random() < 0.03:
        return chance.choice(VALUES)()
    holder = chance.choice(holders)
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    key = chance.choice(keys)
    kind = chance.randrange(6)
    if kind < 3:
        holder[key] = chance.choice(VALUES)()
    elif kind == 3:
        del holder[key]
    elif kind == 4 and isinstance(holder, dict):
        holder[chance.choice(WORDS)] = holder.pop(key)
    elif kind == 5 and isinstance(holder, list):
        holder[key:key] = [holder[key]] * chance.choice((1, 3))
    else:
        holder[key] = holder[chance.choice(keys)]
        return json.loads(json.dumps(content))  # what stands in two places is not one
    return content


def _holders(content: Any) -> Any:
    if isinstance(content, dict | list) and content:
        yield content
        for inner in content.values() if isinstance(content, dict) else content:
            yield from _holders(inner)


def json_text(content: Any, chance: Random) -> str:
    """JSON as a file; seldom nested beyond measure, cut off, or with a key twice."""
    text = json.dumps(content, ensure_ascii=chance.random() < 0.9)
    kind = chance.randrange(20)
    if kind == 0:
        return "[" * chance.choice((50, 5000, 200_000)) + text
    if kind == 1:
        return text[: chance.randrange(len(text) + 1)]
    if kind == 2:
        return some_text(text, chance)
    return text
