"""Real processes, a real collector and a real scrape, for the tests."""
