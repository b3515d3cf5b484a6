"""One self-contained page of an explanation: maps to wipe and compare, evolution, the class lens.

`record` says what the page holds, `lens` the evidence of every class (`gather` asks a model for it), `packing` how
numbers travel, `page` sets it; the page's own style and scripts are in `front/`, plain modules, joined into one.
"""

from vitscope.report.gather import lens_of
from vitscope.report.lens import Lens
from vitscope.report.record import content_of, shown

__all__ = ["Lens", "content_of", "lens_of", "shown"]
