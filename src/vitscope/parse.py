"""JSON and names that others wrote."""

from __future__ import annotations

import json
import re
from typing import Any

_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
"""What may be half of a pair of surrogates: as JSON escapes it, or as it is."""


def parse_json(text: str | bytes) -> Any:
    """The content of a JSON text.

    Raises:
        ValueError: it is no JSON, of another code than UTF-8, nested deeper than Python follows, or says half a
            character: such a name could neither be written nor shown later.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        content = json.loads(text)
        if _HALF.search(text) and not is_unicode(json.dumps(content, ensure_ascii=False)):
            raise ValueError("holds half a character (a lone surrogate)")
        return content
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def is_unicode(name: str) -> bool:
    """Whether a name can be written as UTF-8; one of a file may be in another code, of which Python keeps the bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_unicode(name: str) -> str:
    """The name, with what is no character of it as a backslash and a number: of a file that is told of, not opened."""
    return name.encode("utf-8", "backslashreplace").decode()
