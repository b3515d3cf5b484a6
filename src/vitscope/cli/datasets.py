"""`vitscope datasets`: every data set with its layout, truth and options."""

from __future__ import annotations

import dataclasses

from vitscope.cli import common


def datasets(json: common.Json = False) -> None:
    """List the data sets: what they know, the folder that is expected, whose terms hold, options."""
    from vitscope.datasets import dataset_options, list_datasets

    if json:
        common.tell_json(
            [
                dataclasses.asdict(info)
                | {
                    "options": {
                        key: {"takes": takes, "default": default}
                        for key, (takes, default) in dataset_options(info.name).items()
                    }
                }
                for info in list_datasets()
            ]
        )
        return
    for info in list_datasets():
        common.tell(f"{info.name:<24} {info.title} ({info.source})")
        common.tell(f"{'':<24} knows {', '.join(info.truth)} · terms: {info.terms}")
        common.tell(f"{'':<24} {info.layout}")
        for key, (takes, default) in dataset_options(info.name).items():
            common.tell(f"{'':<24} option {key} = {takes} [{default}]")
        common.tell("")
