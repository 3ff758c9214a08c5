"""Public surface of the distro: flat re-exports under the names users import.

    from flx_observability import configure

    configure(service_name="orders")

Names are looked up when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flx_otel_distro.start import configure as configure

__all__ = ["configure"]


def __getattr__(name: str) -> object:
    if name == "configure":
        from flx_otel_distro.start import configure

        globals()[name] = configure
        return configure
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
