"""gRPC server interceptors, for `grpc.server` and `grpc.aio.server` alike.

server = grpc.aio.server(interceptors=[MetricsServerInterceptor(), TracingServerInterceptor()])
"""

from flx_otel_instrumentors.grpc.interceptors import MetricsServerInterceptor, TracingServerInterceptor

__all__ = ["MetricsServerInterceptor", "TracingServerInterceptor"]
