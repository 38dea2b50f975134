"""Which CPUs and memory each worker process gets."""
