"""The page of a run: what was measured, how sure it is, what was run, and what to be careful of."""

from __future__ import annotations

from importlib.metadata import version

from vitscope.bench.page.images import by_class, extremes, pictures_of
from vitscope.bench.page.run import cautions, failures, published, ran, skipped
from vitscope.bench.page.values import metric, overview
from vitscope.bench.summary import Summary
from vitscope.bench.tables import grids, settings_in_words
from vitscope.view.page import page

__all__ = ["page_of"]


def page_of(summary: Summary) -> str:
    """The page as HTML, everything in it."""
    places, pictures = pictures_of(summary)
    about = summary.about
    what = " on ".join(filter(None, (about.model, about.dataset)))
    lead = [
        f"{len(summary.methods)} methods{f', {what}' if what else ''}: {summary.images} images, {summary.rows} rows.",
        "A method that is not better than each of the maps that know nothing of the model has shown nothing here; it "
        "is marked †. The best mean is bold; what cannot be told apart from it is underlined.",
        settings_in_words(summary),
    ]
    lead += about.remarks
    if summary.failed:
        lead.append(f"{summary.failed} rows failed; see What failed.")
    sections = [
        overview(summary),
        *(metric(summary, name, grid) for name, grid in grids(summary).items() if name != "overview"),
        by_class(summary),
        extremes(summary, places),
        published(summary),
        cautions(summary),
        failures(summary),
        skipped(summary),
        ran(summary),
    ]
    versions = f"vitscope {version('vitscope')}; seed {summary.settings.seed}"
    return page("vitscope: benchmark", lead, [one for one in sections if one is not None], versions, pictures)
