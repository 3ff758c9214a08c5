"""Assembly of the SDK: which provider, reader, processor and propagator a process gets."""
