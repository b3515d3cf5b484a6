"""The model, torch and the process are left as they were found, whatever is called, raised, nested or run at once."""

from __future__ import annotations

import functools
import gc
import importlib.util
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from torch import Tensor, nn

import vitscope
from tests import state
from tests.cheaper import cheaper
from tests.conftest import LAYOUTS, POOLED, build
from tests.zoo import ZOO, built
from vitscope.flow import attention_flow
from vitscope.methods import as_methods, list_methods
from vitscope.metrics import Forwards, GridMaps, InsertionDeletion, ModelScorer, evaluate, randomised
from vitscope.metrics.base import Pictures
from vitscope.models import anatomy_of
from vitscope.models.guard import _lock_of
from vitscope.targets import Concept, Contrast, Output, Probability

LABELS = [cheaper(facts.name) for facts in list_methods()]
LIGHT = [label for label in LABELS if next(iter(as_methods(label).values())).facts.forwards < 10]

QUICK = ["distilled", "dinov2_registers", "mean", "compiled in place"]
OTHERS = [
    *sorted((LAYOUTS | POOLED).keys() - set(QUICK)),
    "timm/swin_tiny_patch4_window7_224",
    "timm/cait_xxs24_224",
    "timm/eva02_tiny_patch14_224",
    "torchvision/vit_b_16",
    "hub/dino_vits8 with a head",
    "transformers ViTForImageClassification",
    "transformers CLIPModel",
    "open_clip CLIP",
    "torch.nn.DataParallel",
    "torch.compile",
    "any other, by vitscope.adapt",
]
"""Layouts of the tests' own models, and models of the zoo by name."""

EXTRAS = {entry.name: entry.extra for entry in ZOO}


RANDOM = st.randoms(use_true_random=True)


class PlantedError(Exception):
    """What a test raises in the middle of a pass."""


@dataclass(frozen=True)
class Raising:
    """A method that fails once its pass has been made."""

    error: type[BaseException]

    facts: ClassVar = as_methods("daam")["daam"].facts

    @property
    def needs(self) -> Any:
        return as_methods("daam")["daam"].needs

    def __call__(self, trace: Any) -> Any:
        raise self.error("in the method")


@functools.cache
def made(name: str) -> tuple[vitscope.models.Anatomy, vitscope.Explainer]:
    """A model by name with its explainer; since it is never changed, it is made once."""
    if name in LAYOUTS | POOLED:
        options = {"init_values": 0.1} if name in ("deit3", "dinov2_registers") else {}
        model: Any = build(name, drop_path_rate=0.3, proj_drop_rate=0.3, **options)
    else:
        entry = next(entry for entry in ZOO if entry.name == name)
        model = built(entry)
    anatomy = model if isinstance(model, vitscope.models.Anatomy) else anatomy_of(model)
    preprocessing = {"size": anatomy.input_size, "crop_pct": 1.0, "interpolation": "bicubic"}
    return anatomy, vitscope.Explainer(model, preprocessing=preprocessing)


def user_hook(*_: Any) -> None:
    """A hook of the user's own, which must stay."""


@contextmanager
def failing(model: nn.Module, error: type[BaseException], rng: random.Random) -> Iterator[None]:
    """One of the model's modules raises when it is called, which may also be never."""

    def hook(*_: Any) -> None:
        raise error("in the model")

    place = rng.choice(list(model.modules()))
    register = rng.choice([place.register_forward_hook, place.register_forward_pre_hook])
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def hooked(model: nn.Module, call: Callable[[], object], rng: random.Random) -> Iterator[None]:
    """One of the model's modules calls something once, in the middle of its pass."""
    calls: list[None] = []

    def hook(*_: Any) -> None:
        if not calls:
            calls.append(None)
            call()

    handle = rng.choice(list(model.modules())).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class Calls(RuleBasedStateMachine):
    """Random calls of one model's explainer; after each, all that could have changed is compared."""

    names: ClassVar[list[str]] = QUICK
    labels: ClassVar[list[str]] = LIGHT
    counts: ClassVar[Counter[str]] = Counter()

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.anatomy, self.explainer = made(data.draw(st.sampled_from(self.names)))
        self.model = self.anatomy.model
        self.undo: list[Callable[[], object]] = []
        self.wanted: dict[Any, Tensor] = {}
        self.process = state.of_process()
        self.before = state.of_model(self.model)

    def teardown(self) -> None:
        for step in reversed(getattr(self, "undo", [])):
            step()

    # -- what the user does -------------------------------------------------------------------------------------------

    @rule(rng=RANDOM)
    def the_user_changes_something(self, rng: random.Random) -> None:
        """Flags, gradients, hooks and random numbers are the user's, and each is put back in the end."""
        module = rng.choice(list(self.model.modules()))
        parameter = rng.choice(list(self.model.parameters()))
        kind = rng.choice(["training", "frozen", "gradient", "hook", "seed"])
        if kind == "training":
            self.undo.append(functools.partial(setattr, module, "training", module.training))
            module.training = not module.training
        elif kind == "frozen":
            self.undo.append(functools.partial(setattr, parameter, "requires_grad", parameter.requires_grad))
            parameter.requires_grad = not parameter.requires_grad
        elif kind == "gradient":
            self.undo.append(functools.partial(setattr, parameter, "grad", parameter.grad))
            parameter.grad = torch.full_like(parameter, rng.random())
        elif kind == "hook":
            register = rng.choice([module.register_forward_hook, module.register_forward_pre_hook])
            self.undo.append(register(user_hook).remove)
        else:
            torch.manual_seed(rng.getrandbits(32))
            random.seed(rng.getrandbits(32))
        self.before = state.of_model(self.model)
        self.process = state.of_process()

    # -- what is called -----------------------------------------------------------------------------------------------

    @rule(rng=RANDOM)
    def a_call(self, rng: random.Random) -> None:
        self._one(rng, rng.choice(self._calls()))
        self._check()

    @rule(rng=RANDOM)
    def calls_in_threads(self, rng: random.Random) -> None:
        """Each thread's own modes are as they were, too."""
        failures: list[BaseException] = []

        def work(seed: int) -> None:
            own = random.Random(seed)
            try:
                before = {name: state.of_process()[name] for name in OF_THREADS}
                self._one(own, own.choice(self._calls()), globals_too=False)
                after = state.of_process()
                assert {name: after[name] for name in OF_THREADS} == before
            except BaseException as error:
                failures.append(error)

        threads = [
            threading.Thread(target=work, args=(rng.getrandbits(32),), daemon=True) for _ in range(rng.choice([2, 3]))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "threads wait for each other"
        for failure in failures:
            raise failure
        self._check()

    @rule(rng=RANDOM)
    def something_raises_in_the_middle(self, rng: random.Random) -> None:
        error = rng.choice([PlantedError, KeyboardInterrupt, RuntimeError, MemoryError])
        where = rng.choice(["model", "target", "method", "progress"])
        method = Raising(error)

        def target(output: Tensor) -> Tensor:
            raise error("in the target")

        def progress(*_: object) -> None:
            raise error("in the progress")

        try:
            if where == "model":
                with failing(self.model, error, rng):
                    self._one(rng, rng.choice(self._calls()))
            elif where == "target":
                self.explainer(self._images(rng), self._labels(rng), target, strict=rng.random() < 0.5)
            elif where == "method":
                self.explainer(self._images(rng), [method], Output(0), strict=rng.random() < 0.5)
            else:
                self.explainer(self._images(rng), self._labels(rng), strict=False, progress=progress)
        except (error, vitscope.VitscopeError):
            pass
        self.counts[f"raises: {where}"] += 1
        self._check()

    @rule(rng=RANDOM)
    def bad_input(self, rng: random.Random) -> None:
        good = self._images(rng)
        bad = [
            good * float("nan"),
            good[:, :2],
            good[..., :5],
            good.double()[:, :, :3],
            good[:0],
            [],
            ["nowhere.png"],
            None,
            good[0, 0],
        ]
        with pytest.raises(vitscope.VitscopeError):
            self.explainer(rng.choice(bad), self._labels(rng))
        with pytest.raises(vitscope.VitscopeError):
            self.explainer(good, rng.choice(["nothing", "daam:odd=1", "agcam:scores=odd", 7]))
        wrong: list[Any] = [10**6, -99, "no such class", [0] * 9, lambda y: y, lambda y: y[:, 0].detach()]
        with pytest.raises(vitscope.VitscopeError):
            self.explainer(good, "cdam" if self.anatomy.class_row else "input_x_gradient", rng.choice(wrong))
        self.counts["bad input"] += 1
        self._check()

    @rule(rng=RANDOM)
    def a_call_in_another_models_target(self, rng: random.Random) -> None:
        images = self._images(rng)

        def target(output: Tensor) -> Tensor:
            self._one(rng, rng.choice(self._calls()), nested=True)
            return output[:, 0]

        _, outer = made("vit")
        alone = outer(OUTER, "daam,cdam", 0)
        explanation = outer(OUTER, "daam,cdam", target)
        for label in ("daam", "cdam"):
            torch.testing.assert_close(explanation[label].values, alone[label].values)
        self.counts["nested: target"] += 1
        if self.anatomy.class_row:  # and of the same model
            self._quietly(lambda: self.explainer(images, "daam,cdam", target))
        self._check()

    @rule(rng=RANDOM)
    def a_call_in_a_models_hook(self, rng: random.Random) -> None:
        """Of another model, or of the model itself."""
        _, inner = made("vit")
        images, labels = self._images(rng), sorted({*self._labels(rng), "input_x_gradient"})
        mine = rng.random() < 0.5
        wanted = self._explained(images, labels)

        def nested() -> None:
            if mine:
                self._explained(images.flip(0, -1), ["input_x_gradient"])
            else:
                inner(OUTER, "daam,cdam,chefer", 0)

        with hooked(self.model, nested, rng):
            found = self._explained(images, labels)
        assert found.keys() == wanted.keys()
        for label, values in wanted.items():
            torch.testing.assert_close(found[label], values, equal_nan=True)
        self.counts[f"nested: hook, {'the same' if mine else 'another'} model"] += 1
        self._check()

    # -- how ----------------------------------------------------------------------------------------------------------

    def _calls(self) -> list[Callable[[random.Random], object]]:
        calls = [self.explain, self.explain, self.each, self.features, self.describe, self.understand, self.metrics]
        if self.anatomy.class_row and self.anatomy.rows_read is not None:
            calls += [self.evidence, self.flow]
        if self.anatomy.blocks and self.anatomy.call is None:
            calls += [self.sanity]
        return calls

    def explain(self, rng: random.Random) -> None:
        images, labels = self._images(rng), self._labels(rng)
        self.explainer(images, labels, self._target(rng, len(images)), strict=False)

    def each(self, rng: random.Random) -> None:
        images = self._images(rng)
        self.explainer.each(images, self._labels(rng), [self._target(rng, len(images)) for _ in range(3)], strict=False)

    def features(self, rng: random.Random) -> None:
        self.explainer.features(self._images(rng))

    def describe(self, rng: random.Random) -> None:
        repr(vitscope.describe(self.anatomy if self.anatomy.family.startswith("adapt") else self.model))

    def understand(self, rng: random.Random) -> None:
        vitscope.Explainer(self.anatomy, preprocessing=self.explainer.preprocessing)
        if not isinstance(self.anatomy.call, functools.partial):
            self._quietly(lambda: anatomy_of(self.model))

    def metrics(self, rng: random.Random) -> None:
        images = self._images(rng)
        size = (images.shape[-2], images.shape[-1])
        maps = GridMaps(torch.rand(len(images), *self.anatomy.grid(size), generator=torch.Generator()), size)
        classes, keys = torch.zeros(len(images), dtype=torch.long), tuple(range(len(images)))
        patch = (8, 8) if self.anatomy.windows else self.anatomy.patch
        batch = Pictures(images, patch, (0.5,) * 3, (0.5,) * 3, classes, keys=keys)
        evaluate([(InsertionDeletion(), maps)], Forwards(ModelScorer.of(self.anatomy), batch))

    def evidence(self, rng: random.Random) -> None:
        self.explainer.evidence(self._images(rng)).top(2)

    def flow(self, rng: random.Random) -> None:
        attention_flow(self.explainer, self._images(rng), "agcam", 0, rows=rng.choice(["all", "read"]))

    def sanity(self, rng: random.Random) -> None:
        for step in randomised(self.model, [block.name for block in self.anatomy.blocks]):
            with torch.no_grad():
                step.model.eval()(self._images(rng))
            break

    def _one(
        self,
        rng: random.Random,
        call: Callable[[random.Random], object],
        globals_too: bool = True,
        nested: bool = False,
    ) -> None:
        """In a mode of torch that a user may be in."""
        modes: dict[str, Callable[[], Any]] = {
            "plain": nullcontext,
            "no grad": torch.no_grad,
            "inference": torch.inference_mode,
            "grad": torch.enable_grad,
            "autocast": functools.partial(torch.autocast, "cpu", torch.bfloat16),
        }
        if globals_too and not nested:
            modes["float64"] = state.in_float64
        mode = rng.choice(["plain", *modes])
        with modes[mode]():
            self._quietly(lambda: call(rng))
        self.counts[f"{call.__name__}"] += 1
        self.counts[f"in {mode}"] += 1

    def _quietly(self, call: Callable[[], object]) -> None:
        """What vitscope refuses is no failure here."""
        try:
            call()
        except vitscope.VitscopeError:
            self.counts["refused"] += 1

    def _explained(self, images: Tensor, labels: list[str]) -> dict[str, Tensor]:
        target = None if self.anatomy.outputs else Output(0)
        explanation = self.explainer(images, labels, target, strict=False)
        return {label: attribution.values for label, attribution in explanation.attributions.items()}

    def _images(self, rng: random.Random) -> Tensor:
        height, width = self.anatomy.input_size
        generator = torch.Generator().manual_seed(rng.randrange(3))
        return torch.randn(rng.choice([1, 2]), 3, height, width, generator=generator, dtype=torch.float32)

    def _labels(self, rng: random.Random) -> list[str]:
        usable = [
            label for label in self.labels if not self.explainer.why_not(label, next(iter(as_methods(label).values())))
        ]
        return rng.sample(usable, min(len(usable), rng.choice([1, 2, 4])))

    def _target(self, rng: random.Random, count: int) -> Any:
        features = self.explainer.features(self._images(rng))
        return rng.choice(
            [
                None,
                1,
                [rng.randrange(7) for _ in range(count)],
                "2",
                lambda y: y[:, 0] - y[:, 1] ** 2,
                Contrast(0, 1),
                Probability(3),
                Output(2),
                Concept(features.roll(1, dims=1)),
            ]
        )

    def _check(self) -> None:
        self.counts["steps"] += 1
        assert not state.changes(self.before, state.of_model(self.model))
        assert not state.changes(self.process, state.of_process())
        free: list[bool] = []

        def try_lock() -> None:
            lock = _lock_of(self.model)
            free.append(lock.acquire(timeout=1))
            if free[0]:
                lock.release()

        thread = threading.Thread(target=try_lock)
        thread.start()
        thread.join()
        assert free == [True], "a lock is still held"


OUTER = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(7))

OF_THREADS = ("grad mode", "inference mode", "autocast", "function modes", "dispatch modes", "memory limit")
"""What each thread has of its own."""


class EveryCall(Calls):
    """The same with every method, over many more layouts."""

    names: ClassVar[list[str]] = [
        name for name in (*QUICK, *OTHERS) if not EXTRAS.get(name) or importlib.util.find_spec(EXTRAS[name])
    ]
    labels: ClassVar[list[str]] = LABELS
    counts: ClassVar[Counter[str]] = Counter()


def run(calls: type[Calls], examples: int, steps: int) -> None:
    calls.counts.clear()
    run_state_machine_as_test(
        calls,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    sys.stdout.write(f"\n{calls.counts['steps']} steps: {dict(calls.counts.most_common())}\n")


def test_everything_is_left_as_found_after_any_sequence_of_calls():
    run(Calls, 5, 10)
    assert Calls.counts["steps"] >= 5


@pytest.mark.slow
def test_everything_is_left_as_found_after_long_sequences_of_every_call():
    """`pytest -m slow -s tests/test_left_as_found.py` says how many steps; VITSCOPE_SEQUENCES asks for more."""
    run(EveryCall, int(os.environ.get("VITSCOPE_SEQUENCES", "60")), 40)
    kinds = {"explain", "each", "evidence", "features", "flow", "metrics", "sanity", "describe", "understand"}
    assert kinds <= EveryCall.counts.keys()


def test_threads_that_ask_for_the_same_do_not_wait_for_each_other():
    """Python 3.11's cached_property holds one lock for all instances, which was taken while a model was waited for."""
    _, explainer = made("distilled")
    labels = ["gradcam", "gradcam_pp", "eigencam", "xgradcam", "smooth_cdam:samples=3"] * 4
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    threads = [
        threading.Thread(target=lambda label=label: explainer(images, label, strict=False), daemon=True)
        for label in labels
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_a_wrapper_and_the_model_in_it_wait_for_each_other():
    """Both are in training mode; a pass that ends must not switch dropout on amid another pass."""
    inner = build(proj_drop_rate=0.5, attn_drop_rate=0.5)
    models = [inner, nn.Sequential(nn.Identity(), inner)]
    explainers = [vitscope.Explainer(model, preprocessing={"size": 32}) for model in models]
    assert _lock_of(models[0]) is _lock_of(models[1])
    assert _lock_of(models[0]) is not _lock_of(build())
    models[1].train()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    wanted = explainers[0](images, "gradcam")["gradcam"].values
    found: list[Any] = []

    def work(explainer: vitscope.Explainer) -> None:
        for _ in range(20):
            found.append(explainer(images, "gradcam")["gradcam"].values)

    threads = [threading.Thread(target=work, args=(one,)) for one in explainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    for maps in found:
        torch.testing.assert_close(maps, wanted, rtol=1e-4, atol=1e-6)
    assert inner.training


def test_random_numbers_of_another_thread_are_its_own():
    """SmoothGrad draws from a generator of its own, which threads of other models neither see nor change."""
    state_before = torch.get_rng_state()
    explainers = [made(name)[1] for name in ("distilled", "vit")]
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    wanted = [explainer(images, "smoothgrad:samples=4")["smoothgrad:samples=4"].values for explainer in explainers]
    found: list[Any] = [[], []]

    def work(which: int) -> None:
        for _ in range(5):
            found[which].append(explainers[which](images, "smoothgrad:samples=4")["smoothgrad:samples=4"].values)

    threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for which in (0, 1):
        assert len(found[which]) == 5
        for maps in found[which]:
            torch.testing.assert_close(maps, wanted[which], rtol=1e-4, atol=1e-6)
    assert torch.equal(state_before, torch.get_rng_state())


@pytest.mark.integration
def test_repeated_calls_keep_no_tensor_alive():
    """Nor a cycle that holds one: Python's collector of cycles is off meanwhile."""
    calls = Calls()
    calls.anatomy, calls.explainer = made("distilled")
    calls.model = calls.anatomy.model

    def alive() -> tuple[int, int]:
        tensors = [thing for thing in gc.get_objects() if isinstance(thing, Tensor)]
        return len(tensors), sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    def call(seed: int) -> None:
        rng = random.Random(seed)
        calls._one(rng, calls._calls()[seed % len(calls._calls())])

    for seed in range(20):
        call(seed)
    gc.collect()
    gc.disable()
    try:
        before = alive()
        for seed in range(40):
            call(seed % 20)
        after = alive()
    finally:
        gc.enable()
    assert after == before
