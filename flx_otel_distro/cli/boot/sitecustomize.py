# pyright: basic
# ruff: noqa: UP031, B905, BLE001, RUF007, PTH120, PTH119
"""Begin observing inside the app's Python, then be gone.

Python imports `sitecustomize` before the app. The wrapper puts this directory first on PYTHONPATH;
this module takes it out of `sys.path`, runs the app's own `sitecustomize` where there is one, and
starts the distro. PYTHONPATH stays, so that the app's own Python children are observed as well.

The interpreter may be any other Python, with another version and without the distro: nothing here
uses syntax or modules that a Python 3 might lack, and a Python without the distro runs on in silence.
"""

import os
import sys

_BOOT = os.path.dirname(__file__)
_HELPERS = ("flx-instrument", "opentelemetry-instrument", "flx-otel")


def _leave_path():
    sys.path[:] = [entry for entry in sys.path if entry != _BOOT]
    sys.path_importer_cache.pop(_BOOT, None)
    sys.modules.pop("sitecustomize", None)


def _app_sitecustomize():
    """Run the app's own module; return what it raised, which Python then reports as ever."""
    try:
        __import__("sitecustomize")
    except Exception as error:
        return error
    return None


def _code():
    """Return the text after `python … -c`, or nothing."""
    words = getattr(sys, "orig_argv", [])
    return next((text for word, text in zip(words[1:], words[2:]) if word == "-c"), "")


def _is_helper():
    """Return whether this process only serves others: a wrapper, or multiprocessing's tracker."""
    words = getattr(sys, "orig_argv", [])
    if len(words) > 1 and os.path.basename(words[1]) in _HELPERS:
        return True
    code = _code().lstrip()
    return code.startswith("from ") and "_tracker import main" in code.split(";")[0]


def _start():
    try:
        from flx_otel_distro.start import start
    except ImportError as error:
        if error.name != "flx_otel_distro":
            raise
        if os.environ.get("FLX_OTEL_WRAPPED_PID") == str(os.getpid()):
            _say("%s has no flx_otel_distro, so the program runs unobserved; install flx-otel-distro there")
        return
    start()


def _say(text):
    if sys.stderr is not None:
        sys.stderr.write("flx-otel: " + text % sys.executable + "\n")


def _observe():
    """Start, with this directory out of PYTHONPATH so that a process we start is not observed."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() in ("true", "1", "yes", "on") or _is_helper():
        return
    given = os.environ.get("PYTHONPATH")
    try:
        if given is not None:
            others = [entry for entry in given.split(os.pathsep) if entry != _BOOT]
            os.environ["PYTHONPATH"] = os.pathsep.join(others)
        _start()
    except (Exception, SystemExit) as error:
        text = "%s: %s" % (type(error).__name__, str(error).replace("\n", " ")[:500])
        _say("observing failed in %s and the program runs without it: " + text.replace("%", "%%"))
    finally:
        if given is not None:
            os.environ["PYTHONPATH"] = given
        os.environ.pop("FLX_OTEL_WRAPPED_PID", None)


_leave_path()
_error = _app_sitecustomize()
if _code().startswith("from multiprocessing.forkserver import main"):
    # The server itself only forks, and must stay without threads; its children run the app.
    os.register_at_fork(after_in_child=_observe)
else:
    _observe()
if _error is not None:
    raise _error
