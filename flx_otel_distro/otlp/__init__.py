"""OTLP: how spans, metrics and logs leave the process without ever holding it up."""
