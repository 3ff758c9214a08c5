"""Start the distro in this process: from the wrapper's boot, or by one line in the app.

Both go the way of upstream's loader: distro, configurator, instrumentors; where the user names another
distro or configurator, through that loader itself. OpenTelemetry is imported only once it is certain that
something will be started.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import quote

from flx_otel_distro import environment
from flx_otel_distro.errors import ConfigurationError
from flx_otel_distro.guard import fault, tell_once

Setting = str | bool | int | float | Sequence[str] | Mapping[str, str] | None

_LOADERS = (
    "opentelemetry.instrumentation.auto_instrumentation",
    "opentelemetry.instrumentation.auto_instrumentation._load",
)
_REMEDY = "The program runs unobserved; OTEL_SDK_DISABLED=true leaves us out"
_lock = threading.Lock()


def start() -> None:
    """Start the distro, before the app, in the process the wrapper became or in a child of it.

    Never raises; under `FLX_OTEL_STRICT=true` a wrong variable ends the process with exit code 2.
    """
    if environment.disabled() or _started() is not None:
        return
    if environment.strict() and (errors := environment.problems()):
        environment.stop(errors)
    # A library the instrumentors import warns at the app's own import of it, not at ours.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if not _stays_out():
                _load()
        except ConfigurationError as error:
            environment.stop([error])


def configure(**options: Setting) -> None:
    """Start the distro in this process, as `flx-instrument` would have; a second call does nothing.

    Options are those of the wrapper, `configure(service_name="orders", traces_exporter="none")`, and
    win over the environment; they stay in `os.environ`, for the app's children as well. A list is
    joined by commas, a dict becomes `key=value` pairs, None counts as not given.

    Where OpenTelemetry is already active nothing is done, and that is said once unless it is this
    distro. Raises TypeError for an unknown option, ConfigurationError for a wrong value under strict
    mode, and nothing else. Thread-safe.
    """
    settings = _settings(options)
    environ = {**os.environ, **settings}
    with _lock:
        if environment.disabled(environ) or _started() is not None:
            return
        if _stays_out():
            return
        if environment.strict(environ) and (errors := environment.problems(environ)):
            raise _first(errors)
        os.environ.update(settings)
        _load()


def _stays_out() -> bool:
    """Return whether an active OpenTelemetry asks us to do nothing; that is said once."""
    from flx_otel_distro.distro import _reason_to_stay_out

    reason = _reason_to_stay_out()
    if reason:
        tell_once("inactive", reason)
    return reason is not None


def _first(errors: Sequence[ConfigurationError]) -> ConfigurationError:
    """Return the first error, with the others as notes."""
    first, *others = (environment.stopping(error) for error in errors)
    for other in others:
        first.add_note(str(other))
    return first


def _load() -> None:
    for variable in (environment.DISTRO, environment.CONFIGURATOR):
        if variable.source() is None:
            os.environ[variable.name] = variable.default
    try:
        if environment.DISTRO.read() == environment.CONFIGURATOR.read() == "flx":
            from flx_otel_distro.loading import load

            load()
            return
        from opentelemetry.instrumentation.auto_instrumentation import initialize

        with _quiet_loader():
            initialize(swallow_exceptions=False)
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - nothing of ours may reach the app
        fault("starting OpenTelemetry", error, _REMEDY)


def _started() -> bool | None:
    """Return whether the distro acts in this process, or None where it was never loaded."""
    module = sys.modules.get("flx_otel_distro.distro")
    instance = module.FlxDistro._instance if module is not None else None
    return None if instance is None else instance.inactive is None


class _OneLine(logging.Filter):
    """Keep the loader's tracebacks off stderr: what it raises again, we tell in one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.exc_info:
            return True
        if not str(record.msg).startswith("Importing of"):
            return False
        record.msg = f"{record.getMessage()} ({record.exc_info[1]})".replace("\n", " ")
        record.args = ()
        record.exc_info = None
        return True


@contextmanager
def _quiet_loader() -> Generator[None, None, None]:
    one_line = _OneLine()
    for name in _LOADERS:
        logging.getLogger(name).addFilter(one_line)
    try:
        yield
    finally:
        for name in _LOADERS:
            logging.getLogger(name).removeFilter(one_line)


def _settings(options: Mapping[str, Setting]) -> dict[str, str]:
    """Return the variables that options set. Raises TypeError for an unknown one."""
    names = {each.option[2:].replace("-", "_"): each.name for each in environment.variables()}
    for option in options:
        if option not in names:
            import difflib

            close = difflib.get_close_matches(option, names, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"configure() has no option {option!r}{hint}")
    return {names[option]: _text(value) for option, value in options.items() if value is not None}


def _text(value: Setting) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ",".join(f"{quote(key, safe='')}={quote(each, safe='')}" for key, each in value.items())
    if isinstance(value, (str, int, float)) or value is None:
        return str(value)
    return ",".join(value)
