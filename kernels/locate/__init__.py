"""Which node evaluates each sample, and where in its box."""

from kernels.locate.api import Located, locate

__all__ = ["Located", "locate"]
