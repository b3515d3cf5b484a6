"""`vitscope methods`: every method with its facts and options."""

from __future__ import annotations

import dataclasses

from vitscope.cli import common
from vitscope.methods import list_methods, options_of


def methods(json: common.Json = False) -> None:
    """List the methods: signed or not, class-specific or not, cost in forwards, paper, options."""
    if json:
        common.tell_json(
            [
                dataclasses.asdict(facts)
                | {
                    "options": {
                        key: {"takes": takes, "default": default}
                        for key, (takes, default) in options_of(facts.name).items()
                    }
                }
                for facts in list_methods()
            ]
        )
        return
    for facts in list_methods():
        options = [f"{key} = {takes} [{default}]" for key, (takes, default) in options_of(facts.name).items()]
        whence = "a baseline" if facts.trivial else f"{facts.year}, {facts.paper}"
        common.tell(f"{facts.name:<16} {facts.title} ({whence})")
        common.tell(
            f"{'':<16} {'signed' if facts.signed else 'unsigned'} · "
            f"{'class-specific' if facts.class_specific else 'the same for every class'} · forwards: {facts.cost}"
        )
        for option in options:
            common.tell(f"{'':<16} option {option}")
        common.tell(f"{'':<16} {facts.caution}\n")
