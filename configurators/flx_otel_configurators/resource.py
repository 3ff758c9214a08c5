"""Who is speaking: the resource every signal of the process carries.

What the user sets wins. No argument vector and no environment is recorded: they hold secrets.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from opentelemetry.sdk.resources import Resource
from opentelemetry.util.types import AttributeValue

from flx_otel_distro import __version__
from flx_otel_distro import environment as env
from flx_otel_distro.guard import guarded

NAMESPACE = "flx"

_GENERIC = frozenset({"app", "main", "server", "run", "manage", "wsgi", "asgi", "__main__", "api", "service"})
_LAUNCHERS = frozenset({"uvicorn", "gunicorn", "hypercorn", "granian", "fastapi", "celery", "flask"})
_WITH_VALUE = frozenset({"-W", "-X", "--check-hash-based-pycs"})
_NAME_VARIABLE = "FLX_OTEL_PROGRAM"
"""Hands the program's name to children whose own command line does not tell it."""


def build_resource(environ: Mapping[str, str] | None = None) -> Resource:
    """Return the resource of this process, detectors and variables included."""
    variables = os.environ if environ is None else environ
    given = env.RESOURCE_ATTRIBUTES.read(variables)
    ours: dict[str, AttributeValue] = {}
    for part, describe in (("process", _process), ("host", _host), ("container", _container)):
        with guarded(f"describing the {part} (resource)"):
            ours.update(describe())
    if "service.namespace" not in given:
        ours["service.namespace"] = NAMESPACE
    if not env.SERVICE_NAME.read(variables) and "service.name" not in given:
        ours["service.name"] = "python"
        with guarded("naming the program (resource)", f"Set {env.SERVICE_NAME.name}"):
            ours["service.name"] = program_name(variables)
    ours["service.instance.id"] = str(uuid.uuid4())
    detected = Resource.get_empty()
    with guarded("running the resource detectors"):
        detected = Resource.create({})
    defaults = {key: value for key, value in ours.items() if key not in given}
    distro = {"telemetry.distro.name": "flx-otel-distro", "telemetry.distro.version": __version__}
    return _readable_resource(detected.merge(Resource(defaults)).merge(Resource(distro)))


def after_fork() -> Resource:
    """Return what is different in a forked child."""
    fresh: dict[str, str | int] = {"process.pid": os.getpid()}
    if "service.instance.id" not in env.RESOURCE_ATTRIBUTES.read():
        fresh["service.instance.id"] = str(uuid.uuid4())
    return Resource(fresh)


def program_name(environ: Mapping[str, str] | None = None, argv: Sequence[str] | None = None) -> str:
    """Return a name by which a person recognises the program: script, module or served application.

    A name that every project has, such as `app` or `main`, gives way to that of the folder it is in.
    """
    variables = os.environ if environ is None else environ
    words = list(sys.orig_argv if argv is None else argv)
    if any("multiprocessing" in word for word in words[1:4]):
        return variables.get(_NAME_VARIABLE) or "python"
    name = _named(words) or Path(sys.executable or "python").name
    return name[:128]


def hand_down_name(name: str) -> None:
    """Let the children of this process that cannot know better use `name`."""
    with suppress(ValueError):  # the file system's encoding may not have its letters
        os.environ.setdefault(_NAME_VARIABLE, name)


def _readable_resource(resource: Resource) -> Resource:
    """Return `resource` with text that every exporter can encode; the same one where nothing is amiss."""
    mended = {_readable(key): _readable_value(value) for key, value in resource.attributes.items()}
    return resource if mended == dict(resource.attributes) else Resource(mended, resource.schema_url)


def _readable_value(value: AttributeValue) -> AttributeValue:
    if isinstance(value, str):
        return _readable(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return cast("AttributeValue", [_readable(each) if isinstance(each, str) else each for each in value])
    return value


def _readable(text: str) -> str:
    """Return `text` with the bytes that Python took for no text as UTF-8 again, U+FFFD where they are not."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def _named(words: Sequence[str]) -> str:
    """Return the name in an interpreter's command line, "" where it has none (`-c`, interactive)."""
    rest = iter(words[1:])
    for word in rest:
        if word == "-m":
            return _of_target(next(rest, ""), list(rest))
        if word == "-c":
            return ""
        if word in _WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            return _of_target(word, list(rest))
        elif re.fullmatch(r"-[A-Za-z]+[mc].*", word):  # such as -Bm module
            return ""
    return ""


def _of_target(target: str, arguments: Sequence[str]) -> str:
    path = Path(target)
    stem = path.name.removesuffix(".py") if path.name else target
    if "/" not in target and not target.endswith(".py"):
        stem = target
    if stem in _LAUNCHERS:
        served = next((_application(word) for word in arguments if _application(word)), None)
        return _specific(served, _folder()) if served else stem
    if stem == "__main__" or (stem in _GENERIC and target.endswith(".py")):
        return _specific(stem, _folder(path))
    if "." in stem and stem.rsplit(".", 1)[1] in _GENERIC:
        return stem.rsplit(".", 1)[0]
    return stem


def _folder(file: Path | None = None) -> str:
    """Return the name of the folder of `file`, else of the working directory; "" where that is gone."""
    try:
        return (Path.cwd() if file is None else file.resolve().parent).name
    except OSError:
        return ""


def _application(word: str) -> str | None:
    """Return the module of a word like `shop.main:app`, else None."""
    found = re.fullmatch(r"([A-Za-z_][\w.]*):[A-Za-z_][\w.]*(\(.*\))?", word)
    return found[1] if found else None


def _specific(module: str, folder: str) -> str:
    parts = [part for part in module.split(".") if part not in _GENERIC]
    if parts:
        return ".".join(parts)
    return folder if folder and folder not in _GENERIC else module


def _process() -> dict[str, str | int]:
    return {
        "process.pid": os.getpid(),
        "process.executable.name": Path(sys.executable or "python").name,
        "process.executable.path": sys.executable or "",
        "process.runtime.name": sys.implementation.name,
        "process.runtime.version": ".".join(map(str, sys.version_info[:3])),
        "process.runtime.description": sys.version.replace("\n", " "),
    }


def _host() -> dict[str, str]:
    machine = platform.machine().lower()
    arch = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm32", "i686": "x86"}.get(machine, machine)
    return {"host.name": socket.gethostname(), "host.arch": arch, "os.type": platform.system().lower() or "unknown"}


def _container(root: Path = Path("/proc/self")) -> dict[str, str]:
    """Return the container's id, from the mounts (cgroup v2) or the control groups (v1); {} outside one."""
    for file, pattern in (
        ("mountinfo", r"/containers/([0-9a-f]{64})/"),
        ("cgroup", r"[/-]([0-9a-f]{64})(?:\.scope)?$"),
    ):
        try:
            text = (root / file).read_text(errors="replace")
        except OSError:
            continue
        found = re.search(pattern, text, re.MULTILINE)
        if found:
            return {"container.id": found[1]}
    return {}
