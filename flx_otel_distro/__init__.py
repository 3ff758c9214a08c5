"""OpenTelemetry distro of the FLX platform: the foundation the other packages stand on."""

__version__ = "0.1.0"
