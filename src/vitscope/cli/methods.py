"""`vitscope methods`: every method with its facts and options, or one with all that its file tells."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope.cli import common
from vitscope.defaults import FAMILIES, GROUPS

if TYPE_CHECKING:
    from vitscope.methods import Documentation, Facts

_INDENT = " " * 4


def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One method, with its whole description.", show_default=False)
    ] = None,
    json: common.Json = False,
) -> None:
    """List the methods by family: signed or not, class-specific or not, cost in forwards, paper, options; or one."""
    from vitscope.methods import document, list_methods

    if name is not None:
        found = document(name)
        if json:
            common.tell_json(_entry(found) | {"description": found.text})
        else:
            common.tell(f"{_brief(found)}\n\n{found.text}")
        return
    every = [document(facts.name) for facts in list_methods()]
    if json:
        common.tell_json([_entry(one) for one in every])
        return
    for family, what in FAMILIES.items():
        members = [one for one in every if one.facts.family == family]
        if members:
            common.tell(f"{family.upper()}: {what}\n")
        for one in members:
            common.tell(_brief(one) + "\n")
    common.tell(f"--methods takes these names with commas between, and groups: {GROUPS}.")


def _entry(one: Documentation) -> dict[str, Any]:
    """All facts, ready for JSON."""
    options = {
        option.name: {"takes": option.takes, "default": option.default, "text": option.text} for option in one.options
    }
    return dataclasses.asdict(one.facts) | {"forwards": one.facts.forwards, "options": options}


def _brief(one: Documentation) -> str:
    """Name, title and paper; the facts; the options; the caution."""
    facts = one.facts
    lines = [f"{facts.name}  {facts.title} ({_whence(facts)})", _INDENT + _properties(facts)]
    lines += [f"{_INDENT}option {option.name} = {option.takes} [{option.default}]" for option in one.options]
    return "\n".join([*lines, *(_INDENT + words for words in (facts.failure, facts.caution) if words)])


def _properties(facts: Facts) -> str:
    """Signed or not, class-specific or not, and the cost."""
    sign = "signed" if facts.signed else "unsigned"
    return (
        f"{sign} · {'class-specific' if facts.class_specific else 'the same for every class'} · forwards: {facts.cost}"
    )


def _whence(facts: Facts) -> str:
    return "a baseline" if facts.trivial else f"{facts.year}, {facts.paper}"
