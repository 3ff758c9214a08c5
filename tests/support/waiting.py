"""Wait for a condition with a deadline, instead of sleeping for luck."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(what: str, ask: Callable[[], T], seconds: float = 20.0) -> T:
    """Return the first truthy answer of `ask`; fail with `what` and the last answer or error after `seconds`."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            answer = ask()
            if answer:
                return answer
            last = answer
        except (OSError, AssertionError, LookupError) as error:
            last = error
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds} s, last: {last!r}")


def free_port() -> int:
    """Return a TCP port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether something accepts connections on `port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
