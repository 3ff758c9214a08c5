"""The endpoint among clients that mean harm, and in a process that lacks means."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from flx_otel_distro import imports
from flx_otel_distro.prometheus import endpoint as endpoint_module
from flx_otel_distro.prometheus import listener as listener_module
from flx_otel_distro.prometheus.endpoint import MetricsEndpoint
from flx_otel_distro.prometheus.listener import Listener
from tests.support.process import clean_environment
from tests.support.waiting import eventually, free_port, listening

BODY = b"ok 1\n"


def render(accept: str) -> tuple[bytes, str]:
    return BODY, "text/plain"


@pytest.fixture
def endpoint() -> Iterator[MetricsEndpoint]:
    made = MetricsEndpoint("127.0.0.1", free_port(), render)
    assert made.start()
    yield made
    made.stop()


def ask(port: int, request: bytes = b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n") -> bytes:
    """Return all that is answered until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(request)
        answer = b""
        while data := client.recv(65536):
            answer += data
        return answer


def answered(port: int) -> bool:
    answer = ask(port)
    return answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\n" + BODY)


def drip(client: socket.socket) -> bool:
    """Send one byte more of a request that never ends; return whether the other side still listens."""
    try:
        client.sendall(b"a")
    except OSError:
        return False
    return True


def test_clients_that_drip_do_not_keep_a_scraper_out(endpoint: MetricsEndpoint) -> None:
    with ExitStack() as stack:

        def slow() -> socket.socket:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", endpoint.port), timeout=60))
            client.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
            return client

        clients = [slow() for _ in range(150)]
        for _ in range(10):
            assert answered(endpoint.port)
            clients = [client if drip(client) else slow() for client in clients]


def test_clients_that_do_not_read_do_not_keep_a_scraper_out() -> None:
    big = MetricsEndpoint("127.0.0.1", free_port(), lambda accept: (b"x" * 20_000_000, "text/plain"))
    assert big.start()
    with ExitStack() as stack:
        for _ in range(listener_module._MOST_CLIENTS + 20):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", big.port), timeout=60))
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert len(ask(big.port)) > 20_000_000
    big.stop()


def test_a_request_has_one_deadline_however_it_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "_READ", 0.5)
    endpoint = MetricsEndpoint("127.0.0.1", free_port(), render)
    assert endpoint.start()
    with socket.create_connection(("127.0.0.1", endpoint.port)) as client:
        eventually("the end of a connection that drips", lambda: not drip(client))
    endpoint.stop()


def test_a_connection_that_idles_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "_IDLE", 0.2)
    endpoint = MetricsEndpoint("127.0.0.1", free_port(), render)
    assert endpoint.start()
    assert ask(endpoint.port, b"GET / HTTP/1.1\r\n\r\n").endswith(BODY)
    endpoint.stop()


def test_a_storm_of_scrapes_is_answered_by_one_thread(endpoint: MetricsEndpoint) -> None:
    before = {thread.name for thread in threading.enumerate()}
    with ThreadPoolExecutor(100, "scraper") as pool:
        found = list(pool.map(lambda _: answered(endpoint.port), range(1000)))
        serving = {thread.name for thread in threading.enumerate() if not thread.name.startswith("scraper")}
    assert found == [True] * 1000
    assert serving <= before


def test_one_connection_carries_many_requests_in_pieces(endpoint: MetricsEndpoint) -> None:
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=60) as client:
        stream = client.makefile("rb")
        for _ in range(3):
            for piece in (b"GET /met", b"rics HTTP/1.1\r\nhost: a\r", b"\n\r\n"):
                client.sendall(piece)
            assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
            assert b"connection: close\r\n" not in list(iter(stream.readline, b"\r\n"))
            assert stream.read(len(BODY)) == BODY
        stream.close()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics?a=1 HTTP/1.0\r\n\r\n", 200),
        (b"\r\nGET / HTTP/1.1\nconnection: close\n\n", 200),
        (b"GET /metrics HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc", 200),
        (b"GET /other HTTP/1.0\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\xff\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\naccept: a\rb\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000, 431),
    ],
)
def test_every_request_has_an_answer(request_: bytes, status: int, endpoint: MetricsEndpoint) -> None:
    assert ask(endpoint.port, request_).startswith(b"HTTP/1.1 %d " % status)
    assert answered(endpoint.port)


def test_stop_before_the_thread_begins_frees_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[Callable[[], None]] = []
    endpoint = MetricsEndpoint("127.0.0.1", free_port(), render)
    monkeypatch.setattr(endpoint, "_spawn", waiting.append)
    assert endpoint.start()
    endpoint.stop()
    assert not listening(endpoint.port)
    for late in waiting:
        late()
    assert not listening(endpoint.port)


def test_stop_while_the_port_is_looked_up_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = MetricsEndpoint("127.0.0.1", free_port(), render)
    resolve = endpoint_module._resolved

    def stopped_meanwhile(host: str, port: int) -> object:
        endpoint.stop()
        return resolve(host, port)

    monkeypatch.setattr(endpoint_module, "_resolved", stopped_meanwhile)
    assert not endpoint.start()
    assert not listening(endpoint.port)


def test_stop_does_not_wait_for_a_render_that_hangs() -> None:
    begun, end = threading.Event(), threading.Event()

    def hang(accept: str) -> tuple[bytes, str]:
        begun.set()
        end.wait(100)
        return BODY, "text/plain"

    endpoint = MetricsEndpoint("127.0.0.1", free_port(), hang)
    assert endpoint.start()
    with socket.create_connection(("127.0.0.1", endpoint.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert begun.wait(60)
        before = time.monotonic()
        endpoint.stop()
        assert time.monotonic() - before < 50
        assert not listening(endpoint.port)
        end.set()
        eventually("the end of the thread", lambda: not alive())


def alive() -> bool:
    return any(thread.name == "flx-otel-metrics" for thread in threading.enumerate())


def test_a_listener_stopped_first_serves_nobody() -> None:
    listener = Listener(socket.create_server(("127.0.0.1", 0)), render)
    listener.stop()
    listener.serve()


@pytest.mark.skipif(sys.platform != "linux", reason="closing a descriptor wakes nobody elsewhere")
def test_a_socket_that_the_app_closed_is_replaced() -> None:
    endpoint = MetricsEndpoint("127.0.0.1", free_port(), render, retry=0.05)
    assert endpoint.start()
    assert answered(endpoint.port)
    listener = endpoint._listener
    assert listener is not None
    file = os.open(os.devnull, os.O_RDONLY)
    os.dup2(file, listener._socket.fileno())  # the number is a file of the app's now
    theirs = listener._socket.fileno()
    try:
        eventually("a scrape", lambda: listening(endpoint.port) and answered(endpoint.port))
        os.fstat(theirs)  # not closed by us
    finally:
        endpoint.stop()
        os.close(theirs)
        os.close(file)


def test_forks_do_not_wait_for_a_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def slow(*arguments: object, **options: object) -> object:
        asked.set()
        answer.wait(60)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    endpoint = MetricsEndpoint("127.0.0.1", free_port(), render)
    endpoint.ensure_started()
    assert asked.wait(60)
    assert imports._importing.acquire(blocking=False)
    imports._importing.release()
    answer.set()
    eventually("the endpoint", lambda: listening(endpoint.port))
    endpoint.stop()


WITHOUT_DESCRIPTORS = """
import os, resource, socket, sys, time
from flx_otel_distro.prometheus.endpoint import MetricsEndpoint
endpoint = MetricsEndpoint("127.0.0.1", 0, lambda accept: (b"ok 1\\n", "text/plain"))
assert endpoint.start()
client = socket.socket()
client.settimeout(60)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
client.connect(("127.0.0.1", endpoint.port))
client.sendall(b"GET /metrics HTTP/1.0\\r\\n\\r\\n")
before = time.process_time()
time.sleep(3)
print("idle" if time.process_time() - before < 1 else "busy")
if "recover" in sys.argv:
    for each in taken:
        os.close(each)
    print(client.recv(65536).split(b"\\r\\n")[0].decode())
"""


@pytest.mark.parametrize(("argument", "said"), [("recover", "idle\nHTTP/1.1 200 OK\n"), ("end", "idle\n")])
def test_a_process_without_descriptors_is_left_alone(argument: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DESCRIPTORS, argument],
        env=clean_environment(), capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
