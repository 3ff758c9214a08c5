"""How a failure is told on a span: the type of the exception, its event and the status.

Texts of exceptions often hold what an outsider sent, so they are cut and made fit for every exporter.
"""

from __future__ import annotations

import traceback
from typing import Final

from opentelemetry.trace import Span, Status, StatusCode

from flx_otel_distro.errors import scrubbed

MOST_DESCRIPTION: Final = 1024
"""Characters of a status description."""

_MOST_MESSAGE: Final = 8192
_MOST_STACKTRACE: Final = 65_536


def error_type(error: BaseException) -> str:
    """Return the qualified name of the class of `error`; without module for a builtin."""
    kind = type(error)
    return scrubbed(kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}")


def record(span: Span, error: BaseException) -> None:
    """Add the event that `span.record_exception(error)` adds, with its texts scrubbed.

    Raises what `str(error)` raises.
    """
    attributes = {
        "exception.type": error_type(error),
        "exception.message": scrubbed(error, _MOST_MESSAGE),
        "exception.stacktrace": scrubbed("".join(traceback.format_exception(error)), _MOST_STACKTRACE),
        "exception.escaped": "False",
    }
    span.add_event("exception", attributes)


def failed(description: str | None = None) -> Status:
    """Return the status ERROR with `description`, scrubbed."""
    return Status(StatusCode.ERROR, scrubbed(description, MOST_DESCRIPTION) if description else None)
