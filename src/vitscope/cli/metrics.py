"""`vitscope metrics`: every metric with its facts, options, and the presets."""

from __future__ import annotations

import dataclasses

from vitscope.cli import common


def metrics(json: common.Json = False) -> None:
    """List the metrics: what they need to know, whether higher is better, paper, options; and the presets."""
    from vitscope.metrics import PRESETS, list_metrics, options_of

    facts = list_metrics()
    groups = dict.fromkeys(one.name.split("/")[0] for one in facts)
    if json:
        listed = [
            dataclasses.asdict(one)
            | {
                "range": [None if abs(limit) == float("inf") else limit for limit in one.range],
                "needs_model": one.needs_model,
            }
            for one in facts
        ]
        options = {
            group: {key: {"takes": takes, "default": default} for key, (takes, default) in options_of(group).items()}
            for group in groups
        }
        presets = [preset.describe() for preset in PRESETS.values()]
        common.tell_json({"metrics": listed, "options": options, "presets": presets})
        return
    for group in groups:
        for one in (one for one in facts if one.name.split("/")[0] == group):
            better = {True: "higher is better", False: "lower is better", None: "neither is better"}
            needs = "" if one.truth == "none" else f" · needs {one.truth}"
            whole = " · one value for the set" if one.over_set else ""
            common.tell(f"{one.name:<32} {one.title} ({one.paper})")
            common.tell(f"{'':<32} {better[one.higher_is_better]}{needs}{whole}")
        for key, (takes, default) in options_of(group).items():
            common.tell(f"{'':<32} option {key} = {takes} [{default}]")
        common.tell("")
    common.tell("presets, each with its paper's preprocessing, target and choice of images:")
    for preset in PRESETS.values():
        common.tell(f"{preset.name:<16} {preset.title} ({preset.paper}): {', '.join(preset.metrics)}")
