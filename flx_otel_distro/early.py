"""What is needed before anything else of OpenTelemetry: its propagate module, and the base of distros.

`opentelemetry.propagate` raises at its import for a name in `OTEL_PROPAGATORS` that nobody registered,
and takes every importer with it. The configurator reads that variable, and sets the global propagator; so
it is imported with the variable hidden.

Upstream's `BaseDistro` brings most of its instrumentation package along, a third of our start-up. Where that
is not loaded, a base of the same shape stands for it, and is registered with it should it come later.
"""

from __future__ import annotations

import sys
from typing import Any

from flx_otel_distro.environment import PROPAGATORS, hidden
from flx_otel_distro.imports import when_imported

_MODULE = "opentelemetry.instrumentation.distro"


class _Base:
    """A singleton with the interface of upstream's base."""

    _instance: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls._instance is None:
            cls._instance = object.__new__(cls)
        return cls._instance

    def _configure(self, **kwargs: Any) -> None:
        raise NotImplementedError

    def configure(self, **kwargs: Any) -> None:
        """Configure the distribution."""
        self._configure(**kwargs)


BaseDistro: Any = _Base
with hidden([PROPAGATORS.name]):
    from opentelemetry.propagate import get_global_textmap

    if _MODULE in sys.modules:
        BaseDistro = sys.modules[_MODULE].BaseDistro
    else:
        when_imported(_MODULE, lambda module: module.BaseDistro.register(_Base))

__all__ = ["BaseDistro", "get_global_textmap"]
