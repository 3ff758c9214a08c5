"""Prometheus: the reader and the endpoint that a scraper asks."""
