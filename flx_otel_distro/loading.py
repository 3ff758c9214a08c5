"""Load distro, configurator and instrumentors as upstream's loader does, each instrumentor when its library comes.

Upstream imports every installed instrumentor and its library at the start of every program. An instrumentor
patches one library, so it is loaded when the app imports that: a program pays for what it uses. Those whose
library is not known here are loaded at the start, as ever. Hooks before and after, exclusion lists and the
check of versions are upstream's.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from typing import Any

from flx_otel_distro import entries, environment
from flx_otel_distro.distro import UPSTREAM_LOADER, FlxDistro
from flx_otel_distro.errors import ConfigurationError
from flx_otel_distro.guard import fault
from flx_otel_distro.imports import when_imported

_UPSTREAM = "opentelemetry.instrumentation."
_OURS = "flx_otel_instrumentors."

LIBRARIES: dict[str, tuple[str, ...]] = {
    "aio-pika": ("aio_pika",),
    "aiohttp-client": ("aiohttp",),
    "aiohttp-server": ("aiohttp",),
    "aiokafka": ("aiokafka",),
    "aiopg": ("aiopg",),
    "asyncclick": ("asyncclick",),
    "asyncpg": ("asyncpg",),
    "boto3": ("boto3",),
    "botocore": ("botocore",),
    "cassandra": ("cassandra", "scylla"),
    "celery": ("celery",),
    "click": ("click",),
    "confluent_kafka": ("confluent_kafka",),
    "django": ("django",),
    "elasticsearch": ("elasticsearch",),
    "falcon": ("falcon",),
    "fastapi": ("fastapi",),
    "flask": ("flask",),
    "flx_fastapi": ("starlette", "fastapi"),
    "flx_grpc_client": ("grpc",),
    "flx_grpc_server": ("grpc",),
    "grpc_aio_client": ("grpc",),
    "grpc_aio_server": ("grpc",),
    "grpc_client": ("grpc",),
    "grpc_server": ("grpc",),
    "httpx": ("httpx",),
    "httpx2": ("httpx2",),
    "jinja2": ("jinja2",),
    "kafka": ("kafka",),
    "mysql": ("mysql",),
    "mysqlclient": ("MySQLdb",),
    "pika": ("pika",),
    "psycopg": ("psycopg",),
    "psycopg2": ("psycopg2",),
    "pymemcache": ("pymemcache",),
    "pymongo": ("pymongo",),
    "pymssql": ("pymssql",),
    "pymysql": ("pymysql",),
    "pyramid": ("pyramid",),
    "redis": ("redis",),
    "remoulade": ("remoulade",),
    "requests": ("requests",),
    "sqlalchemy": ("sqlalchemy",),
    "starlette": ("starlette",),
    "tornado": ("tornado",),
    "tortoiseorm": ("tortoise",),
    "urllib3": ("urllib3",),
}
"""What an instrumentor of upstream's or ours patches, by the name of its entry point."""


MORE = {"grpc": "grpc.aio"}
"""What an instrumentor needs beside its library, and another thread may be importing at the same time."""


def load() -> None:
    """Start the distro. Raises ConfigurationError under strict mode, and nothing else of ours."""
    entries.remember()
    try:
        distro: Any = FlxDistro()
        distro.configure()
        for entry in entries.entries("opentelemetry_configurator", "flx"):
            entry.load()().configure(auto_instrumentation_version=_upstream_version())
        _load_instrumentors(distro)
    finally:
        entries.forget()


def _upstream_version() -> str:
    from opentelemetry.instrumentation.version import __version__

    return __version__


def _load_instrumentors(distro: FlxDistro) -> None:
    excluded = environment.DISABLED_INSTRUMENTATIONS.read()
    for entry in entries.entries("opentelemetry_pre_instrument"):
        entry.load()()
    if "*" not in excluded:
        for entry in entries.entries("opentelemetry_instrumentor"):
            if entry.name not in excluded:
                _Deferred(distro, entry).wait()
    for entry in entries.entries("opentelemetry_post_instrument"):
        entry.load()()


class _Deferred:
    """An instrumentor that is loaded once, by the first of its libraries that is imported."""

    def __init__(self, distro: FlxDistro, entry: EntryPoint) -> None:
        self._distro = distro
        self._entry = entry
        self._wanted = False
        self._needed: list[str] = []  # modules that must not be half-made when it is loaded
        self._loaded = False

    def wait(self) -> None:
        known = self._entry.value.startswith((_UPSTREAM, _OURS))
        libraries = LIBRARIES.get(self._entry.name, ()) if known else ()
        if not libraries:
            self._load()
        for library in libraries:
            when_imported(library, lambda _: self._want(), _remedy(self._entry.name))
        for name in (self._entry.module, *(MORE[each] for each in libraries if each in MORE)):
            if libraries and not self._loaded:
                self._needed.append(name)
                when_imported(name, lambda module: self._have(module.__name__))

    def _want(self) -> None:
        """Load it now, or as soon as all is there: its own module may be what is importing the library."""
        self._wanted = True
        self._have("")

    def _have(self, module: str) -> None:
        if self._wanted and not any(_is_half_made(each) for each in self._needed if each != module):
            self._load()

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        try:
            if not self._entry.value.startswith(_OURS) and self._in_conflict():
                return
            with _no_errors_from_warnings():
                self._distro.load_instrumentor(self._entry, skip_dep_check=True)
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - one that fails leaves the others working
            fault(f"instrumentor {self._entry.name}", error, _remedy(self._entry.name))

    def _in_conflict(self) -> bool:
        """Return whether the installed library is another than the instrumentor supports; that is told once."""
        from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts

        distribution = self._entry.dist
        conflict = get_dist_dependency_conflicts(distribution) if distribution is not None else None
        if conflict is not None:
            conflict._log(logging.getLogger(UPSTREAM_LOADER), self._entry.name)
        return conflict is not None


def _is_half_made(name: str) -> bool:
    """Return whether a module is being imported, by this thread or another."""
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))


@contextmanager
def _no_errors_from_warnings() -> Generator[None]:
    """Keep the app's `-W error` from what an instrumentor imports; other filters are left alone."""
    if not any(action == "error" for action, *_ in warnings.filters):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _remedy(name: str) -> str:
    return f"To leave it out: OTEL_PYTHON_DISABLED_INSTRUMENTATIONS={name}"
