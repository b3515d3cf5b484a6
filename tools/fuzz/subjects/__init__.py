"""What of vitscope reads what others wrote, one file a subject."""

from __future__ import annotations

from collections.abc import Callable

from tools.fuzz.judge import Subject
from tools.fuzz.subjects.annotations import Annotations
from tools.fuzz.subjects.banks import Banks
from tools.fuzz.subjects.checkpoints import Checkpoints
from tools.fuzz.subjects.commands import Commands
from tools.fuzz.subjects.images import Images
from tools.fuzz.subjects.masks import Masks
from tools.fuzz.subjects.plans import Plans

SUBJECTS: dict[str, Callable[[], Subject]] = {
    "images": Images,
    "checkpoints": Checkpoints,
    "banks": Banks,
    "plans": Plans,
    "masks": Masks,
    "annotations": Annotations,
    "commands": Commands,
}

SHARES = {
    "images": 55,
    "checkpoints": 15,
    "banks": 12,
    "plans": 10,
    "masks": 5,
    "annotations": 8,
    "commands": 5,
}
"""Of the cases that are asked for; fewer of what takes long."""
