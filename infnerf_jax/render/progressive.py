"""Pictures that become finer: a preview at once, the final one when it is due.

A preview has larger pixels, hence larger footprints: the octree answers with
coarse nodes, few and already low-pass filtered, so that even a preview of one
pixel in 256 shows no aliasing.
"""

import time
from typing import Any, Callable, Iterator, NamedTuple

from infnerf_jax.render import render_image

# Halvings of the pictures in turn: all previews together cost 7 % more rays.
LEVELS = (4, 2, 0)


class Progress(NamedTuple):
  """One picture of a view that becomes finer.

  Attributes:
    image: ImageOutputs.
    report: as `StoreScene.frame_report` has it; empty where all is resident.
    is_final: whether nothing finer follows.
    seconds: since the view was asked for.
  """

  image: render_image.ImageOutputs
  report: dict[str, Any]
  is_final: bool
  seconds: float


def coarse_to_fine(
    render: Callable[..., render_image.ImageOutputs],
    *,
    levels: tuple[int, ...] = LEVELS,
    pyramid_level: int = 0,
) -> Iterator[Progress]:
  """Renders a view with large pixels first.

  Args:
    render: called with `pyramid_level`; the rest is bound.
    levels: halvings of each picture, the last 0.
    pyramid_level: of the final picture.

  Yields:
    Progress.

  Raises:
    ValueError: levels that do not fall to 0.
  """
  if list(levels) != sorted(set(levels), reverse=True) or levels[-1] != 0:
    raise ValueError(f'levels: got {levels}, expected falling ones to 0')
  start = time.perf_counter()
  for level in levels:
    image = render(pyramid_level=pyramid_level + level)
    yield Progress(image, {}, level == 0, time.perf_counter() - start)
