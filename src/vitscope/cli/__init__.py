"""The command line: one command a file, which imports what it needs of the library when it runs.

So help, the version and usage errors need neither torch nor any other heavy library.

Exit codes: 0 on success, 1 where some inputs failed (each named, the others done), 2 on wrong use, 130 after Ctrl-C.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer

from vitscope.cli import (
    bank,
    bench,
    compare,
    datasets,
    demo,
    describe,
    doctor,
    explain,
    flow,
    methods,
    metrics,
    models,
    report,
    serve,
)
from vitscope.cli.common import say, tell, wait_passively
from vitscope.errors import VitscopeError

app = typer.Typer(
    name="vitscope",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        tell(f"vitscope {version('vitscope')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Shows where and how a vision transformer looks, and how far each picture of that can be trusted."""


app.command("demo")(demo.demo)
app.command("explain")(explain.explain)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("describe")(describe.describe)
app.command("flow")(flow.flow)
app.add_typer(bank.bank, name="bank")
app.command("models")(models.models)
app.command("methods")(methods.methods)
app.command("bench")(bench.bench)
app.command("metrics")(metrics.metrics)
app.command("datasets")(datasets.datasets)
app.command("serve")(serve.serve)
app.command("doctor")(doctor.doctor)


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it; typer turns the exception into it."""

_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""Click's, or of typer's own copy of click, which typer does not name."""


class _ToErrorStream(logging.Handler):
    """What the library says in its log, as the commands say it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"vitscope: {self.format(record)}", file=sys.stderr)  # noqa: T201


def main() -> None:
    """Run the command line; a user's mistake is one line on the error stream, never a traceback."""
    wait_passively()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; the failure itself is ours to tell
    log = logging.getLogger("vitscope")
    if not any(isinstance(handler, _ToErrorStream) for handler in log.handlers):
        log.addHandler(_ToErrorStream(logging.WARNING))
    try:
        sys.exit(app(standalone_mode=False))
    except _UsageError as error:
        _wrong_use(error)
        sys.exit(2)
    except VitscopeError as error:
        say(str(error))
        sys.exit(2)
    except OSError as error:
        say(f"{error.filename or 'a file'}: {error.strerror or error}; check the path and its permissions")
        sys.exit(2)
    except (RuntimeError, MemoryError) as error:
        from vitscope.trace.chunks import out_of_memory

        if not out_of_memory(error):
            raise
        say("out of memory; use a smaller --batch-size or --size, a --memory-limit, or a smaller model")
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != INTERRUPTED:
            raise
        say("interrupted; what was written is complete")
        sys.exit(INTERRUPTED)


def _wrong_use(error: Any) -> None:
    """One line, where typer would draw a box; the help where nothing was said at all."""
    if error.ctx is not None and not sys.argv[1:]:
        error.show()
        return
    command = "vitscope" if error.ctx is None else error.ctx.command_path
    say(f"{error.format_message().rstrip('.')}; see {command} --help")
