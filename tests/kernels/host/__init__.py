"""The kernels of `kernels/` compiled for the host, launched with the arguments that a GPU would get."""
