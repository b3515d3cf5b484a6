"""The tests of what changed, in under a minute where that is one module: `make check FILES="src/vitscope/..."`.

Without files: what git says has changed since the last commit. A test file is itself. A module of the source is tested
by the files that are named after it, that import it or one of its public names, and that `AREAS` adds; of files that
take long, only by the tests that name it. Marked tests (slow, integration) are left out, and so is whatever a change
does elsewhere: `make test` runs the rest.

It is a plugin of pytest too, which keeps the tests that were chosen (--only).
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import functools
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PACKAGE = "vitscope"
UNMARKED = "not slow and not integration"
MOST = 9
"""Test files that import a module, beside those that are named after it and those of its area."""

Words = frozenset[str]
"""Names of which a test has to hold one, in its id or its source; none for all tests of a file."""

LONG = frozenset(
    f"tests/{name}.py"
    for name in (
        "bench/test_run",
        "bench/test_scenes",
        "benchmarks/test_memory",
        "benchmarks/test_peers",
        "cli/test_cli",
        "faults/test_memory",
        "faults/test_readers",
        "faults/test_together",
        "methods/test_contract",
        "methods/test_fidelity",
        "methods/test_groups",
        "methods/test_perturbation",
        "models/test_bundled",
        "models/test_t2t",
        "models/test_windowed",
        "models/test_zoo",
        "test_devices",
        "test_docs",
        "test_drawing",
        "test_passes",
        "test_startup",
        "view/test_video",
    )
)
"""Files that take long: of these, a module that is not their own runs the tests that name it."""

WIDE = frozenset({"tests/methods/test_contract.py", "tests/models/test_zoo.py"})
"""Files that test everything at once; what of them belongs to a module stands in `AREAS`."""

_LAYOUTS = "tests/methods/test_contract.py: vit distilled"
_TRACE = ("tests/trace/*.py", "tests/methods/test_pooled.py", "tests/test_left_as_found.py", _LAYOUTS)
_ZOO = "tests/models/test_zoo.py: "
_RUNS = (
    "tests/bench/test_run.py: test_one_row_an_image_method_and_metric_with_the_metrics_own_numbers "
    "test_what_fails_is_a_row_with_its_error test_another_run_is_refused_and_the_same_one_goes_on_only_when_asked "
    "test_every_picture_counts_once_in_values_of_a_set"
)

AREAS: tuple[tuple[str, tuple[str, ...]], ...] = (
    # whose files, the patterns of test files: the words that their tests hold
    ("attribution.py", ("tests/test_explainer.py", "tests/test_flow.py")),
    ("explainer.py", ("tests/models/test_changes.py", "tests/faults/test_models.py", _LAYOUTS)),
    ("passes.py", ("tests/test_passes.py",)),
    ("any_network.py", ("tests/recording/test_network.py", "tests/models/test_windowed.py")),
    ("recording/*", ("tests/recording/*.py",)),
    ("network/*", ("tests/network/*.py",)),
    ("outcome.py", ("tests/test_explainer.py", "tests/methods/test_groups.py")),
    ("opening.py", ("tests/test_explainer.py", "tests/models/test_loading.py")),
    ("once.py", ("tests/test_bank.py", "tests/models/test_compiled.py")),
    ("arrays.py", ("tests/test_saved.py", "tests/images/test_images.py")),
    ("save.py", ("tests/test_saved.py",)),
    ("warned.py", ("tests/images/test_notes.py",)),
    ("parse.py", ("tests/test_saved.py", "tests/fuzz/test_banks.py")),
    ("errors.py", ("tests/test_messages.py",)),
    ("__main__.py", ("tests/cli/test_cli.py: test_from_a_shell",)),
    ("__init__.py", ("tests/test_startup.py: vitscope",)),
    ("trace/*", _TRACE),
    ("trace/classpath.py", ("tests/methods/test_reads.py",)),
    ("trace/scaled.py", ("tests/methods/test_rivals.py",)),
    ("trace/windows.py", ("tests/models/test_windowed.py: test_a_key_goes_back_where_it_came_from",)),
    ("trace/record.py", ("tests/methods/test_reads.py",)),
    ("methods/*", (_LAYOUTS, "tests/methods/test_pooled.py", "tests/methods/test_trivial.py")),
    ("methods/registry.py", ("tests/methods/test_groups.py", "tests/methods/test_documentation.py")),
    ("methods/base.py", ("tests/test_explainer.py",)),
    ("methods/products.py", ("tests/methods/test_reads.py", "tests/methods/test_fidelity.py: rollout chefer")),
    ("methods/survival.*", ("tests/methods/test_survival.py",)),
    ("metrics/*", ("tests/metrics/*.py",)),
    ("images/*", ("tests/images/*.py",)),
    ("images/placement.py", ("tests/models/test_placed.py",)),
    ("targets/*", ("tests/targets/*.py", "tests/test_evidence.py")),
    ("targets/bank.py", ("tests/test_bank.py",)),
    ("models/*", ("tests/models/test_models.py", "tests/models/test_loading.py")),
    ("models/guard.py", ("tests/test_left_as_found.py", _LAYOUTS)),
    ("models/state.py", ("tests/models/test_changes.py",)),
    ("models/anatomy.py", ("tests/test_evidence.py", _LAYOUTS)),
    (
        "models/parts.py",
        (
            "tests/models/test_windowed.py: test_a_key_goes_back_where_it_came_from",
            f"{_ZOO}vit_tiny_patch16_224",
            _LAYOUTS,
        ),
    ),
    (
        "models/timm_vit.py",
        ("tests/methods/test_reads.py", _LAYOUTS, f"{_ZOO}vit_small_patch14_reg4_dinov2 vit_base_patch16_siglip_224"),
    ),
    ("models/timm_blocks.py", (_LAYOUTS, f"{_ZOO}vit_small_patch16_rope_224 vit_tiny_patch16_224")),
    ("models/timm_beit_eva.py", (f"{_ZOO}beit_base_patch16_224 eva02_tiny_patch14_224 vit_small_patch16_dinov3",)),
    ("models/timm_class_attention.py", (f"{_ZOO}cait_xxs24_224 xcit_nano_12_p16_224 convit_tiny",)),
    (
        "models/windowed.py",
        (f"{_ZOO}swin_tiny_patch4_window7_224 maxvit_nano_rw_256",),
    ),
    ("models/torchvision_vit.py", (f"{_ZOO}vit_b_16", "tests/models/test_torchvision.py")),
    ("models/t2t.py", (f"{_ZOO}t2t_vit_14",)),
    ("models/dino_hub.py", (f"{_ZOO}dino_vits8", "tests/models/test_models.py")),
    ("models/open_clip_vit.py", (f"{_ZOO}CLIP-open_clip", "tests/targets/test_text.py")),
    ("models/hf/*", ("tests/models/test_hf.py",)),
    ("models/sources/*", ("tests/models/test_loading.py",)),
    ("models/weights/*", ("tests/models/test_bundled.py",)),
    ("bench/*", ("tests/bench/test_[!rs]*.py", "tests/bench/test_ro*.py", "tests/bench/test_s[tu]*.py", _RUNS)),
    ("bench/page/*", ("tests/bench/test_summary.py", "tests/report/test_page.py")),
    ("bench/scenes.py", ("tests/bench/test_scenes.py",)),
    ("bridges/*", ("tests/bridges/*.py",)),
    ("cli/*", ("tests/cli/test_cli.py", "tests/fuzz/test_commands.py")),
    ("cli/common.py", ("tests/cli/test_cli.py: test_explain test_wrong_use_is_one_line_that_says_what_to_do",)),
    ("cli/run_over.py", ("tests/cli/test_cli.py: test_explain test_bad_pictures_are_named_and_the_others_done",)),
    ("datasets/*", ("tests/datasets/*.py",)),
    ("report/*", ("tests/report/*.py", "tests/test_saved.py")),
    ("serve/*", ("tests/serve/*.py", "tests/cli/test_serve.py")),
    ("view/*", ("tests/view/test_[!v]*.py",)),
    ("view/video.py", ("tests/view/test_video.py",)),
)
"""What is tested through others: files below src/vitscope, and the tests that show it."""


@dataclass
class Selection:
    """Test files with the words that narrow them, what is said beside, and what was changed without a test."""

    files: dict[str, Words] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)

    def add(self, file: str, words: Words = frozenset()) -> None:
        """One more test file; whole if it is whole by any reason, else by the words of all."""
        known = self.files.get(file)
        self.files[file] = words if known is None else known | words if known and words else frozenset()


@dataclass(frozen=True)
class Tree:
    """A checkout."""

    root: Path

    @functools.cached_property
    def modules(self) -> dict[str, str]:
        """Dotted name -> path from the root, of every module of the package."""
        found = {}
        for path in sorted((self.root / "src").rglob("*.py")):
            parts = path.relative_to(self.root / "src").with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = self.name(path)
        return found

    @functools.cached_property
    def tests(self) -> dict[str, str]:
        """Path from the root -> text, of every test file."""
        return {self.name(path): path.read_text("utf-8") for path in sorted((self.root / "tests").rglob("test_*.py"))}

    @functools.cached_property
    def handed_on(self) -> dict[str, dict[str, str]]:
        """Package -> names that it imports from its modules -> where they are defined."""
        packages = {module for module, path in self.modules.items() if path.endswith("__init__.py")}
        return {package: self._imports(self.tree(self.modules[package])) for package in packages}

    @functools.cached_property
    def imported(self) -> dict[str, frozenset[str]]:
        """Test file -> the modules that it imports or names."""
        return {file: frozenset(self._used(text)) for file, text in self.tests.items()}

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def tree(self, file: str) -> ast.Module:
        return ast.parse((self.root / file).read_text("utf-8"))

    def _imports(self, tree: ast.Module) -> dict[str, str]:
        found = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
                found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        return found

    def _used(self, text: str) -> set[str]:
        dotted = {*self._imports(ast.parse(text)).values(), *re.findall(rf"\b{PACKAGE}(?:\.\w+)+", text)}
        return {self.home(name) for name in dotted} - {""}

    def home(self, dotted: str) -> str:
        """The module that a dotted name is defined in, also where a package hands it on; "" for none."""
        module, rest = dotted, []
        while module and module not in self.modules:
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
        handed = self.handed_on.get(module, {}).get(rest[0], "") if rest else ""
        return self.home(".".join([handed, *rest[1:]])) if handed else module

    def words(self, file: str) -> Words:
        """What tests call a module of the source: its public names, the methods that it registers, its command."""
        names = {Path(file).stem} if "/cli/" in file else set()
        tree = self.tree(file)
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.Assign):
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        return frozenset(name for name in names | methods_in(tree) if not name.startswith("_"))


def methods_in(tree: ast.Module) -> set[str]:
    """The names of the methods that a module registers: of its `Facts`, or of a function that makes them."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    named = [one for call in calls if call.func.id in ("Facts", "_facts") for one in (*call.args[:1], *_named(call))]
    return {one.value for one in named if isinstance(one, ast.Constant) and isinstance(one.value, str)}


def _named(call: ast.Call) -> list[ast.expr]:
    return [word.value for word in call.keywords if word.arg == "name"]


def select(tree: Tree, changed: Iterable[str]) -> Selection:
    """The tests of changed files, paths from the root."""
    selection = Selection()
    for file in dict.fromkeys(changed):
        found = tests_of(tree, file)
        for test, words in found.items():
            selection.add(test, words)
        if not found:
            selection.without.append(file)
    return selection


def tests_of(tree: Tree, file: str) -> dict[str, Words]:
    """The test files of one changed file, each with the words that narrow it."""
    if file in tree.tests:
        return {file: frozenset()}
    if file.startswith(f"src/{PACKAGE}/"):
        return _of_source(tree, file)
    if file.endswith(".md"):
        page = re.compile(rf"(?<![\w-]){re.escape(Path(file).name)}")
        return {
            test: frozenset({Path(file).name}) if test in LONG else frozenset()
            for test, text in tree.tests.items()
            if page.search(text)
        }
    if file.endswith(".py"):  # of tests, benchmarks, tools, examples
        found = [test for test, text in tree.tests.items() if test not in LONG and _imports(text, file)]
        return dict.fromkeys(_specific(tree, found), frozenset())
    return {}


def _imports(text: str, file: str) -> bool:
    """Whether a test imports a module that lies outside of the package."""
    *folders, stem = Path(file).with_suffix("").parts
    dotted = re.escape(".".join(folders))
    return bool(re.search(rf"\b{dotted}\.{stem}\b|\bfrom {dotted} import [^\n]*\b{stem}\b", text))


def _of_source(tree: Tree, file: str) -> dict[str, Words]:
    inside = file.removeprefix(f"src/{PACKAGE}/")
    module = file.endswith(".py") and (tree.root / file).is_file()
    words = tree.words(file) if module else frozenset()
    own = _named_after(tree, inside)
    area = _of_area(tree, inside)
    naming = _naming(tree, methods_in(tree.tree(file))) if module and inside.startswith("methods/") else []
    found = {}
    for test in sorted(dict.fromkeys([*own, *_importers(tree, file), *area, *naming]), key=WIDE.__contains__):
        if narrowed := area.get(test):
            found[test] = narrowed
        elif test in own or (test not in LONG and (test in area or test not in naming)):
            found[test] = frozenset()
        elif words:
            found[test] = words
    return found


def _named_after(tree: Tree, inside: str) -> list[str]:
    path = Path(inside)
    stem = path.parent.name if path.stem == "__init__" else path.stem
    likely = (Path("tests") / path.parent / f"test_{stem}.py").as_posix()
    return [likely] if likely in tree.tests else []


def _importers(tree: Tree, file: str) -> list[str]:
    """Those that import the module; no long ones of other folders."""
    (module,) = [name for name, path in tree.modules.items() if path == file] or [""]
    folder = Path(file).parent.name.replace(PACKAGE, "tests")
    near = {test for test in tree.tests if test not in LONG or Path(test).parent.name == folder}
    found = [test for test, modules in tree.imported.items() if module in modules and test in near - WIDE]
    return _specific(tree, found)


def _specific(tree: Tree, tests: Iterable[str]) -> list[str]:
    """Some of these tests, those first that import little of the package."""
    return sorted(tests, key=lambda test: (len(tree.imported[test]), test))[:MOST]


def _of_area(tree: Tree, inside: str) -> dict[str, Words]:
    found: dict[str, Words] = {}
    for files, patterns in AREAS:
        if not fnmatch.fnmatchcase(inside, files) or ("/" not in files and "/" in inside):
            continue
        for pattern in patterns:
            tests, _, words = pattern.partition(": ")
            for test in fnmatch.filter(tree.tests, tests):
                found[test] = found.get(test, frozenset()) | set(words.split())
    return found


def _naming(tree: Tree, methods: set[str]) -> list[str]:
    """Tests of methods in which one of these is named."""
    return [
        test
        for test, text in tree.tests.items()
        if test.startswith("tests/methods/") and test not in WIDE and any(holds(text, method) for method in methods)
    ]


def holds(text: str, word: str) -> bool:
    """Whether a word stands in a text by itself."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def arguments_of(selection: Selection) -> list[str]:
    """Of pytest: the most specific files first."""
    narrowed = [f"--only={file}:{','.join(sorted(words))}" for file, words in selection.files.items() if words]
    return ["-m", UNMARKED, *selection.files, *narrowed]


def processes_of(selection: Selection) -> list[str]:
    """Of pytest: one process where there is little to do, since others take seconds to begin."""
    return ["-n", "auto", "--dist", "loadgroup"] if LONG & set(selection.files) or len(selection.files) > 6 else []


def environment(**more: str) -> dict[str, str]:
    """For pytest, which is given this file as a plugin."""
    paths = [str(Path(__file__).resolve().parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


def changed_files(root: Path) -> list[str]:
    """What git says has changed since the last commit, or is new."""
    asked = (["diff", "--name-only", "HEAD"], ["ls-files", "--others", "--exclude-standard"])
    lines = [
        subprocess.run(["git", *one], cwd=root, text=True, capture_output=True, check=True).stdout for one in asked
    ]
    return "".join(lines).splitlines()


def says(selection: Selection) -> list[str]:
    """What was selected."""
    lines = [
        f"{file}{' (' + ', '.join(sorted(words)) + ')' if words else ''}" for file, words in selection.files.items()
    ]
    lines += [f"no unmarked test is selected for {file}" for file in selection.without]
    return [*lines, "the rest: make test; Ray, servers, browsers, pages: make test-integration"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="changed files; otherwise what git says has changed")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="of the checkout")
    parser.add_argument("--list", action="store_true", help="say what is selected, and run nothing")
    parser.add_argument("--one-process", action="store_true", help="also where there is much to do")
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    files = [
        Path(os.path.relpath(file, root)).as_posix() if Path(file).is_absolute() else file for file in options.files
    ]
    selection = select(Tree(root), files or changed_files(root))
    print("\n".join(says(selection)), flush=True)
    if options.list or not selection.files:
        return 0
    processes = [] if options.one_process else processes_of(selection)
    command = [sys.executable, "-m", "pytest", "-p", "check", *processes, *arguments_of(selection)]
    code = subprocess.run(command, cwd=root, env=environment(), check=False).returncode
    if code == NO_TESTS:
        print("all tests that were selected are marked: make test-integration, or make test-all, runs them")
    return 0 if code == NO_TESTS else code


NO_TESTS = 5
"""pytest's exit code where no test was run."""


# -- the plugin --------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: Any) -> None:
    parser.addoption(
        "--only", action="append", default=[], metavar="FILE:WORDS", help="of this file the tests that hold a word"
    )


def pytest_configure(config: Any) -> None:
    """Know the mark also where a revision has none."""
    config.addinivalue_line("markers", "integration: left out of what is selected")


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Leave out, of each narrowed file, the tests that hold none of its words."""
    only = {file: frozenset(words.split(",")) for file, _, words in (one.partition(":") for one in config.option.only)}
    kept = [item for item in items if _kept(item, only)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _kept(item: Any, only: Mapping[str, Words]) -> bool:
    words = only.get(item.nodeid.partition("::")[0])
    return not words or any(holds(item.nodeid, word) or holds(_source(item.function), word) for word in words)


@functools.cache
def _source(function: Any) -> str:
    return inspect.getsource(function)


if __name__ == "__main__":
    sys.exit(main())
