"""The story that `sep-stream demo` tells."""
