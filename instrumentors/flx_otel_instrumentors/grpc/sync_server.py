"""The handlers of the sync server: functions, and generators whose steps run on the thread grpc chose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flx_otel_distro.contexts import attach, current, detach
from flx_otel_distro.guard import fault
from flx_otel_instrumentors.grpc.server import ServerCall


class SyncServerCall(ServerCall):
    """A call that a sync server has received."""

    __slots__ = ()

    def sync_unary(self, request: Any, rpc: Any) -> Any:
        """Run the app's function on the thread grpc chose."""
        token = self.begin(rpc)
        try:
            self.watch()
            response = self.plan.behavior(request, rpc)
        except BaseException as error:
            self.raised(error)
            raise
        finally:
            if token is not None:
                detach(token)
        self.returned(last=False)
        return response

    def sync_stream(self, request: Any, rpc: Any) -> Any:
        """Run the app's function and return its responses, with the context current at each step."""
        token = self.begin(rpc)
        try:
            self.watch()
            responses = self.plan.behavior(request, rpc)
        except BaseException as error:
            self.raised(error)
            raise
        finally:
            if token is not None:
                detach(token)
        return Responses(self, responses)

    def watch(self) -> None:
        """Ask grpc to tell when the RPC is over, even while the handler goes on."""
        try:
            add = getattr(self.rpc, "add_callback", None)
            if add is not None and not add(self.terminated):
                self.terminated()
        except Exception as problem:  # noqa: BLE001
            fault("watching a gRPC call", problem)


class Responses:
    """The responses of a sync handler. The context is current within a step and never between two.

    What the handler itself made current within its generator is kept for its next step.
    """

    __slots__ = ("_call", "_context", "_responses")

    def __init__(self, call: ServerCall, responses: Any) -> None:
        self._call = call
        self._responses = responses
        self._context = call.context

    def __iter__(self) -> Iterator[Any]:
        self._responses = iter(self._responses)
        return self

    def __next__(self) -> Any:
        token = None if self._context is None else attach(self._context)
        try:
            return next(self._responses)
        except StopIteration:
            self._call.returned(last=True)
            raise
        except BaseException as error:
            self._call.raised(error)
            raise
        finally:
            if token is not None:
                self._context = current()
                detach(token)
