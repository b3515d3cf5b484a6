"""The way of a command through many pictures: in batches, with bars, each failure its own picture's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from rich.progress import Progress, TaskID

from vitscope.attribution import Explanation, by_reason, line_of
from vitscope.cli.common import progress_bar, say
from vitscope.errors import VitscopeError
from vitscope.explainer import Explainer
from vitscope.images import Batch, ReadAhead, Unread, prepare
from vitscope.methods import as_methods, choose
from vitscope.models import Anatomy
from vitscope.outcome import refusals
from vitscope.targets import Target


def run_over(
    explainer: Explainer,
    images: Sequence[str],
    methods: str,
    target: Target,
    batch_size: int,
    failed: dict[str, str],
    max_forwards: int | None = None,
    workers: int | None = 0,
) -> Iterator[tuple[list[str], Explanation]]:
    """Explain the pictures in batches, with a progress bar; those that fail are named in `failed` and passed over.

    A method that runs the model on altered pictures has a bar of its own while it does. The pictures are read ahead, in
    processes of their own where there are `workers` (`ReadAhead`).

    Yields:
        The pictures' paths and their explanation. Where a batch fails as a whole or in one method, its pictures are
        explained one by one, so that each failure is its own picture's.
    """
    told: set[str] = set()
    slow = any(method.needs.pictures for method in as_methods(methods).values())
    reader = ReadAhead(
        partial(prepare, preprocessing=explainer.preprocessing), workers=workers, ahead=batch_size, say=say
    )
    with progress_bar(disable=len(images) < 2 and not slow) as progress, reader:
        reader.expect(images)
        ask = partial(explainer, strict=False, max_forwards=max_forwards, progress=_Bars(progress))
        task = progress.add_task("explaining", total=len(images))
        for start in range(0, len(images), batch_size):
            ready: list[tuple[str, Batch]] = []
            some = images[start : start + batch_size]
            for path, found in zip(some, reader.take(some), strict=True):
                if isinstance(found, Unread):
                    _fail(failed, path, found.reason)
                else:
                    ready.append((path, found))
            for paths, explanation in _explain_group(explainer.anatomy, ask, ready, methods, target, failed):
                _tell_left_out(explanation, told)
                yield paths, explanation
            progress.advance(task, min(batch_size, len(images) - start))


class _Bars:
    """A bar for each method that reports its forwards, from the first report to the last."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, label: str, done: int, total: int) -> None:
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(label, total=total)
        self._progress.update(self._tasks[label], completed=done, total=total)
        if done >= total:
            self._progress.remove_task(self._tasks.pop(label))


def _explain_group(
    anatomy: Anatomy,
    ask: Callable[[Batch, str, Target], Explanation],
    ready: list[tuple[str, Batch]],
    methods: str,
    target: Target,
    failed: dict[str, str],
) -> Iterator[tuple[list[str], Explanation]]:
    if not ready:
        return
    paths = [path for path, _ in ready]
    chosen = choose(methods)
    hopeless = set(refusals(anatomy, chosen.methods, [target]))
    try:
        explanation = ask(
            Batch.join([batch for _, batch in ready], next(anatomy.model.parameters()).device), methods, target
        )
    except VitscopeError as error:
        if len(ready) == 1:
            _fail(failed, paths[0], f"{paths[0]}: {error}")
            return
        explanation = None
    if len(ready) > 1 and (explanation is None or explanation.failures.keys() - hopeless):
        for entry in ready:
            yield from _explain_group(anatomy, ask, [entry], methods, target, failed)
        return
    assert explanation is not None
    for label, reason in explanation.failures.items():
        if label not in explanation.left_out or not explanation.attributions:
            for path in paths:
                _fail(failed, path, f"{path}: {reason}")
    yield paths, explanation


def _tell_left_out(explanation: Explanation, told: set[str]) -> None:
    """What of a group does not apply: one line a reason, the first time."""
    reasons = {label: reason for label, reason in explanation.failures.items() if label in explanation.left_out}
    for reason, labels in by_reason(reasons).items():
        line = line_of(labels, reason)
        if line not in told:
            told.add(line)
            say(line)


def _fail(failed: dict[str, str], path: str, reason: str) -> None:
    failed[path] = f"{failed[path]}; {reason}" if path in failed else reason
    say(reason)
