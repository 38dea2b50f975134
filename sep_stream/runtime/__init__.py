"""What every process needs around the core: settings, topology, topics, the embedded stack, logs."""
