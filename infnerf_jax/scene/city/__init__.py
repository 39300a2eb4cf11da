"""A procedural city with exact ground truth at any scale.

The functions that others need, under one name:
`city.render(city.make_city(extent=1e5), camera, pyramid_level=3)`.
"""

from infnerf_jax.scene.city.layout import (
    DEFAULT_EXTENT,
    LOT,
    MAX_HEIGHT,
    City,
    make_city,
)
from infnerf_jax.scene.city.rendering import View, render, render_rays
from infnerf_jax.scene.city.surveying import sparse_points, survey

__all__ = [
    'City',
    'DEFAULT_EXTENT',
    'LOT',
    'MAX_HEIGHT',
    'View',
    'make_city',
    'render',
    'render_rays',
    'sparse_points',
    'survey',
]
