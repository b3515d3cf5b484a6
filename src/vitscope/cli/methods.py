"""`vitscope methods`: every method with its facts and options."""

from __future__ import annotations

import dataclasses

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

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
    table = Table(box=SIMPLE, pad_edge=False)
    for column in ("method", "what it is", "signed", "class-specific", "forwards", "year", "paper", "options"):
        table.add_column(column, overflow="fold")
    for facts in list_methods():
        options = [f"{key}={takes} [{default}]" for key, (takes, default) in options_of(facts.name).items()]
        table.add_row(
            facts.name,
            facts.title,
            "yes" if facts.signed else "no",
            "yes" if facts.class_specific else "no",
            facts.cost,
            str(facts.year),
            facts.paper,
            "\n".join(option.replace("[", "\\[") for option in options),
        )
    Console().print(table)
