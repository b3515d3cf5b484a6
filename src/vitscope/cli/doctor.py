"""`vitscope doctor`: what is installed, what the machine has, whether vitscope works on it, and what to do."""

from __future__ import annotations

import typer

from vitscope.cli import common


def doctor(json: common.Json = False) -> None:
    """Say what vitscope finds on this machine, try it, and name what will give trouble; send it with a fault.

    Exit code 1 where vitscope itself does not work.
    """
    from vitscope.doctor import diagnose

    found = diagnose()
    if json:
        common.tell_json({**found.facts, "troubles": list(found.troubles)})
    else:
        for subject, facts in found.facts.items():
            common.tell(f"{subject}:")
            for key, value in facts.items():
                common.tell(f"  {key:<26} {value}")
        common.tell("troubles:")
        for line in found.troubles or ("none",):
            common.tell(f"  {line}")
    if not found.sound:
        raise typer.Exit(1)
