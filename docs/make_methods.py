"""Writes docs/methods, a page a method with its picture, from the registry: python docs/make_methods.py.

--text writes the pages alone, which takes seconds; --only NAME draws the picture of one method alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import make_models  # noqa: E402

from vitscope import Explainer  # noqa: E402
from vitscope.attribution import Attribution  # noqa: E402
from vitscope.datasets import CLASSES, Scene, Scenes  # noqa: E402
from vitscope.datasets.scenes import Knobs  # noqa: E402
from vitscope.errors import FlatMapError  # noqa: E402
from vitscope.methods import FAMILIES, Documentation, Method, as_method, document, list_methods  # noqa: E402
from vitscope.methods.base import Facts  # noqa: E402
from vitscope.metrics import energy_in_mask  # noqa: E402
from vitscope.trace import Blocks  # noqa: E402
from vitscope.view import at_size, clipped, overlay, text  # noqa: E402
from vitscope.view.page import outline  # noqa: E402

FOLDER = HERE / "methods"
PICTURES = FOLDER / "pictures"
LARGEST = 25_000
"""Bytes of a picture."""

ONE, TWO, MANY = (
    Scenes(100, "one", seed=11)[36],
    Scenes(100, "two", seed=13)[22],
    Scenes(100, "one", seed=31, knobs=Knobs(clutter=5))[17],
)
SHOWN: tuple[tuple[Scene, int], ...] = ((ONE, 0), (TWO, 0), (TWO, 1), (MANY, 0))
"""The scenes with which of their classes is asked for; the first class of the first and last is the predicted one."""

SIDE, GAP, LINE = 204, 8, 20
DEAR, BUDGET = 20, 256
"""From so many forwards on, a method with `max_forwards` is drawn with this many."""


def pages() -> dict[str, str]:
    """File name -> the page as it should be: the index, and one for each method."""
    found = {"README.md": index()}
    for facts in list_methods():
        found[f"{facts.name}.md"] = page(document(facts.name))
    return found


def index() -> str:
    """The table of all methods, family by family."""
    lines = [
        "# Methods",
        "",
        "Written by `docs/make_methods.py` from the methods themselves. Cost: in forwards of the same model, measured "
        "by `benchmarks/cost.py` on a ViT-Ti/16, batch 8, CPU. `vitscope methods` prints the same; `--methods` takes "
        f"the names and groups of them: `all`, or a family ({', '.join(f'`{_group(name)}`' for name in FAMILIES)}).",
    ]
    for family, what in FAMILIES.items():
        members = [facts for facts in list_methods() if facts.family == family]
        if not members:
            continue
        lines += ["", f"## {family}: {what}", ""]
        lines += [_row("name", "title", "year", "paper", "signed", "class-specific", "forwards"), _row(*["---"] * 7)]
        for facts in members:
            yes = ["yes" if is_so else "no" for is_so in (facts.signed, facts.class_specific)]
            year = "" if facts.trivial else str(facts.year)
            name = f"[`{facts.name}`]({facts.name}.md)"
            lines.append(_row(name, _plain(facts.title), year, _paper(facts), *yes, facts.cost))
    return "\n".join(lines) + "\n"


def page(one: Documentation) -> str:
    """One method's page."""
    facts, method = one.facts, as_method(one.facts.name)
    parts = [
        f"# `{facts.name}`: {_plain(facts.title)}",
        f"[All methods](README.md) · family *{facts.family}*: {FAMILIES[facts.family]}",
        "\n".join(_facts(facts)),
        f"![the scenes](pictures/scenes.webp)\n![maps of {facts.name}](pictures/{facts.name}.webp)",
        _legend(facts, method),
        "## What it computes",
        *_set(one.paragraphs),
    ]
    if one.shared:
        parts += ["Of all methods in its file:", *_set(one.shared)]
    if one.options:
        rows = [_row("option", "takes", "default", "what"), _row(*["---"] * 4)]
        rows += [
            _row(
                f"`{o.name}`", o.takes.replace("|", "\\|"), f"`{_shown(o.default)}`", _plain(o.text).replace("|", "\\|")
            )
            for o in one.options
        ]
        parts += ["## Options", f"As `{facts.name}:option=value,option=value`.", "\n".join(rows)]
        parts += [f"Refused: {_plain(when)}" for when in one.raises.values()]
    parts += ["## When it fails", "\n".join(f"- {_plain(line)}" for line in _fails(facts, method))]
    parts += ["## Which models", *_models(facts.name)]
    return "\n\n".join(parts) + "\n"


def _facts(facts: Facts) -> Iterator[str]:
    yield _row("", "")
    yield _row("---", "---")
    yield _row("paper", _paper(facts) if facts.trivial else f"{_paper(facts)}, {facts.year}")
    yield _row("values", "signed: below zero is evidence against" if facts.signed else "unsigned")
    yield _row("target", "class-specific" if facts.class_specific else "class-agnostic: the same map for every class")
    yield _row("cost", f"{facts.cost} forwards (ViT-Ti/16, batch 8, CPU)")
    yield _row(
        "to try it", f"`vitscope explain photo.jpg --model timm/vit_tiny_patch16_224 --methods {facts.name} --out out/`"
    )


def _legend(facts: Facts, method: Method) -> str:
    told = (
        "Three drawn scenes, explained with the bundled model `scenes`; the one with two things is asked for either of "
        "them. Outlined: the thing asked for; below: how much of the map's positive mass lies inside. "
    )
    told += (
        "Red speaks for it, blue against it." if facts.signed else "Dark to yellow: the map's lowest to highest value."
    )
    if not facts.class_specific:
        told += " It is asked for no class, and its two maps of the second scene are one."
    if cheap(method) != method:
        told += f" Drawn with `max_forwards={BUDGET}`, where by default it takes {facts.cost}."
    return told


def _fails(facts: Facts, method: Method) -> Iterator[str]:
    """The caution, and what follows from the facts and the needs."""
    if facts.failure:
        yield f"{facts.failure} The tables are in docs/results.md."
    yield facts.caution
    if facts.trivial:
        yield "It is a baseline: in every table, a method that does not beat it has shown nothing."
        return
    if facts.class_specific and not facts.signed:
        yield "It shows no evidence against the target; where nothing speaks for it, the map is flat: an error."
    if not facts.class_specific:
        yield "Asked for another class than the predicted one, it refuses: the map would not change."
    needs = method.needs
    if needs.every_row != Blocks.NONE:
        yield (
            "It reads every row of the attention, not the class token's alone: time and memory grow with the square of "
            "the number of tokens."
        )
    if facts.forwards >= DEAR:
        yield f"It takes {facts.cost} forwards." + (
            " `max_forwards` bounds them, and makes the map coarser or noisier."
            if hasattr(method, "max_forwards")
            else ""
        )
    if hasattr(method, "seed"):
        yield "It draws random numbers: another `seed` gives another map, the same `seed` the same one."


def _models(name: str) -> list[str]:
    """To how many models of the table it applies, and why not to the others."""
    names, reasons = make_models.verdicts()
    out: dict[str, list[str]] = {}
    for model, reason in zip(names, reasons[name], strict=True):
        if reason:
            out.setdefault(reason, []).append(model)
    count = len(names) - sum(map(len, out.values()))
    if not out:
        return [f"To all {count} of [the table](../models.md)."]
    listed = [f"- not to {', '.join(models)}: {_plain(reason)}." for reason, models in out.items()]
    return [f"To {count} of the {len(names)} of [the table](../models.md);", "\n".join(listed)]


def _set(paragraphs: tuple[tuple[bool, str], ...]) -> list[str]:
    return [f"```text\n{lines}\n```" if formula else _plain(lines) for formula, lines in paragraphs]


def _plain(prose: str) -> str:
    """Prose in which nothing but code between backticks is markup."""
    pieces = re.split(r"(`[^`]*`)", prose)
    return "".join(
        piece if number % 2 else re.sub(r"([\\*_~<])", r"\\\1", piece).replace("](", "]\\(")
        for number, piece in enumerate(pieces)
    )


def _paper(facts: Facts) -> str:
    linked = re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", facts.paper)
    linked = re.sub(r"doi (10\.\S+[^\s,;.])", r"[doi \1](https://doi.org/\1)", linked)
    if linked != facts.paper:
        return linked
    if re.fullmatch(r"[\w.-]+\.\w+/\S+", facts.paper):
        return f"[{facts.paper}](https://{facts.paper})"
    return _plain(facts.paper)


def _group(family: str) -> str:
    return f"family:{family}" if any(facts.name == family for facts in list_methods()) else family


def _shown(default: object) -> str:
    return str(default).lower() if default is None or isinstance(default, bool) else str(default)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def cheap(method: Method) -> Method:
    """The method as it is drawn: a dear one that can be bounded, bounded."""
    fields = {field.name for field in dataclasses.fields(method)}  # type: ignore[arg-type]
    if method.facts.forwards >= DEAR and "max_forwards" in fields:
        return dataclasses.replace(method, max_forwards=BUDGET)  # type: ignore[type-var]
    return method


def draw_scenes() -> Image.Image:
    """The photographs, with what is asked for in each."""
    return _side_by_side(
        [(Image.fromarray(scene.image), f"{CLASSES[_asked(scene, slot)]}", _mask(scene, slot)) for scene, slot in SHOWN]
    )


def draw_maps(explainer: Explainer, method: Method) -> Image.Image:
    """The method's map of each scene, and how much of it lies on the thing asked for."""
    tiles = []
    for scene, slot in SHOWN:
        asked = _asked(scene, slot) if method.facts.class_specific else None
        mask = _mask(scene, slot)
        try:
            (attribution,) = explainer([scene.image], {method.facts.name: cheap(method)}, asked).attributions.values()
        except FlatMapError:
            tiles.append((Image.new("RGB", (SIDE, SIDE), text.BLANK), "flat: nothing speaks for it", mask))
            continue
        share = float(energy_in_mask(torch.stack(list(attribution.to_pixels())), torch.from_numpy(mask)[None]))
        tiles.append((_picture(attribution), f"{share:.0%} on it", mask))
    return _side_by_side(tiles)


def _picture(attribution: Attribution) -> Image.Image:
    values, subject = attribution.values[0], attribution.subject
    view, maps = at_size(subject.batch.originals[0], subject.geometries[0], clipped(values, values)[None], SIDE)
    return overlay(view, maps[0], attribution.signed)


def _side_by_side(tiles: list[tuple[Image.Image, str, torch.Tensor]]) -> Image.Image:
    canvas = Image.new("RGB", (len(tiles) * (SIDE + GAP) - GAP, SIDE + LINE), text.PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, (picture, words, mask) in enumerate(tiles):
        left = column * (SIDE + GAP)
        canvas.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, 0))
        border = outline(mask, (SIDE, SIDE), width=1)
        canvas.paste(border, (left, 0), border)
        draw.text((left, SIDE + 3), words, font=text.font(13), fill=text.INK)
    return canvas


def _asked(scene: Scene, slot: int) -> int:
    return scene.instances[slot].label


def _mask(scene: Scene, slot: int):
    return scene.mask(_asked(scene, slot))


def save(picture: Image.Image, name: str) -> None:
    """As WebP, in the best quality that keeps it small."""
    for quality in (85, 75, 65, 50):
        picture.save(PICTURES / f"{name}.webp", quality=quality, method=6)
        if (PICTURES / f"{name}.webp").stat().st_size <= LARGEST:
            return
    raise SystemExit(f"{name}.webp is larger than {LARGEST} bytes; make SIDE smaller")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", action="store_true", help="the pages alone, no pictures")
    parser.add_argument("--only", help="the picture of this method alone")
    arguments = parser.parse_args()
    PICTURES.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for name, content in wanted.items():
        (FOLDER / name).write_text(content, encoding="utf-8")
    drawn = {"scenes", *(facts.name for facts in list_methods())}
    for file in (*FOLDER.glob("*.md"), *PICTURES.glob("*.webp")):
        if file.name not in wanted and (file.suffix == ".md" or file.stem not in drawn):
            file.unlink()
    if arguments.text:
        return
    save(draw_scenes(), "scenes")
    explainer = Explainer("scenes")
    for facts in list_methods():
        if arguments.only in (None, facts.name):
            save(draw_maps(explainer, as_method(facts.name)), facts.name)


if __name__ == "__main__":
    main()
