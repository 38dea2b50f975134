"""The GPU engine: the kernels of `kernels/`, on a device of bounded memory that may fail; which engine to take."""

from sep_stream.gpu.auto import AutoEngine
from sep_stream.gpu.engine import GpuEngine
from sep_stream.gpu.opened import engine_named, gpu_engine, offer_engines

__all__ = ["AutoEngine", "GpuEngine", "engine_named", "gpu_engine", "offer_engines"]
