"""Emission-absorption compositing of the samples along rays."""

from kernels.composite.api import Composited, composite, composite_ragged

__all__ = ["Composited", "composite", "composite_ragged"]
