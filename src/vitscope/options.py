"""Options with named choices, held against what they may be, where Python itself takes any value."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vitscope.errors import VitscopeError, nearest


def check_options(record: Any, error: type[VitscopeError], owner: str) -> None:
    """Hold every Literal field of a dataclass's instance against what it may be.

    Args:
        record: the instance.
        error: raised where a value is none of them.
        owner: whose options they are, in the error.

    Raises:
        error: names the option, its value, the allowed ones and the nearest of them.
    """
    try:
        hints = get_type_hints(type(record))
    except NameError:  # of a class within a function, whose annotations only the function can resolve
        return
    for field in dataclasses.fields(record):
        check_choice(f"{owner}:{field.name}", getattr(record, field.name), hints[field.name], error)


def check_choice(option: str, value: Any, hint: Any, error: type[VitscopeError]) -> None:
    """Hold a value against a Literal, or Literals and None; any other type is let pass.

    Raises:
        error: as `check_options`.
    """
    kinds = get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)
    if any(get_origin(kind) is not Literal and kind is not type(None) for kind in kinds):
        return
    known = [choice for kind in kinds for choice in (get_args(kind) or (None,))]
    if any(isinstance(value, type(choice)) and value == choice for choice in known):
        return
    words = [str(choice).lower() if choice is None else str(choice) for choice in known]
    raise error(f"{option}={value} is not understood; it takes {' | '.join(words)}{nearest(str(value), words)}")
