"""A property that is computed at its first use, and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

Value = TypeVar("Value")


class once(Generic[Value]):  # noqa: N801  (used as a decorator, like property)
    """As functools.cached_property, without a lock: two threads may both compute it, and one result is kept.

    Python 3.11's holds ONE lock for all instances while it computes. A thread that waits for a model there stops
    another one that has the model and asks for the same property, and neither ever goes on.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> once[Value]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...

    def __get__(self, instance: object | None, owner: type) -> once[Value] | Value:
        if instance is None:
            return self
        value: Value = vars(instance).setdefault(
            self._name, self._compute(instance)
        )  # which is found first from now on
        return value
