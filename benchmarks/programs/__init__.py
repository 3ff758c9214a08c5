"""Programs that are measured or that load them; each runs in a peer's environment or in ours, as a script."""
