"""The union of what methods need."""

from __future__ import annotations

import dataclasses

import pytest

from vitscope.trace import LIBRA, PLAIN, Blocks, Needs

PARTS = {part.name: getattr(Needs(), part.name) for part in dataclasses.fields(Needs)}


def some(name):
    if isinstance(PARTS[name], frozenset):
        return {"backward": (frozenset({LIBRA}), frozenset({PLAIN})), "scaled": (frozenset({2}), frozenset({5}))}[name]
    return (Blocks.LAST, Blocks.ALL) if isinstance(PARTS[name], Blocks) else (False, True)


@pytest.mark.parametrize("name", PARTS)
def test_a_union_holds_all_of_both(name):
    one, other = some(name)
    whole = one | other if isinstance(one, frozenset) else other
    for first, second in ((one, other), (other, one), (PARTS[name], whole)):
        together = Needs(**{name: first}) | Needs(**{name: second})
        assert together == Needs(**{name: whole})


def test_a_field_that_is_added_is_not_dropped():
    kind = dataclasses.make_dataclass("More", [("extra", Blocks, Blocks.NONE)], bases=(Needs,), frozen=True)
    assert (kind() | kind(extra=Blocks.LAST, hiding=True)) == kind(extra=Blocks.LAST, hiding=True)
