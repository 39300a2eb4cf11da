"""Suite `pictures`: a run's pictures by the fast renderer and with blending.

Faster pictures are measured against the basic renderer in the same run, turn
by turn, by CPU time; popping on a zoom and a flight over the procedural city,
whose truth is exact.
"""

import dataclasses
import statistics
import time
from typing import Any

import numpy as np

from infnerf_jax.evaluation import metrics, popping
from infnerf_jax.evaluation.bench import harness
from infnerf_jax.evaluation.complexity import views
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import levels
from infnerf_jax.render import shared_proposals
from infnerf_jax.scene import pyramid as pyramid_lib
from infnerf_jax.scene.city import layout, rendering

_SPEED_TARGET, _LOSS_TARGET = 2.0, 0.1
_BLEND_COST_TARGET = 1.35
BLENDS = (0.0, 0.25, 0.5)
_FRAMES = 24
_WIDTH = 96


def _timed(draw) -> tuple[Any, float]:
  start = time.process_time()
  image = draw()
  return image, time.process_time() - start


def _variants(options) -> dict[str, Any]:
  """Sampling options by name; the first is the reference."""
  fast = shared_proposals.fast(options)
  return {
      'exact': options,
      'shared proposals': dataclasses.replace(fast, min_weight=0.0),
      'fast': fast,
  }


def speed_rows(loaded, *, max_views: int = 4) -> list[harness.Row]:
  """CPU time of pictures and their PSNR, by how they are rendered.

  Args:
    loaded: a LoadedScene whose photos are at hand.
    max_views: test photos.
  """
  pyramid = loaded.open_pyramid()
  variants = _variants(loaded.options)
  seconds = {name: [] for name in variants}
  scores = {name: [] for name in variants}
  for row in loaded.split['test'][:max_views]:
    rgb, valid = pyramid_lib.photo(pyramid, row, 0)
    camera = cameras_lib.take(loaded.cameras, row)
    for name, options in variants.items():
      draw = lambda o=options, c=camera: loaded.render(
          c, options=o, pixel_size=loaded.downscale, outputs=('rgb',)
      )
      if not seconds[name]:
        draw()  # compiles
      image, taken = _timed(draw)
      seconds[name].append(taken)
      scores[name].append(metrics.psnr(image.rgb, rgb, valid))
  rays = rgb.shape[0] * rgb.shape[1]
  rows = []
  for name in list(variants)[1:]:
    pairs = zip(seconds['exact'], seconds[name], strict=True)
    ratio = statistics.median(a / b for a, b in pairs)
    loss = float(np.mean(scores['exact']) - np.mean(scores[name]))
    taken = statistics.median(seconds[name])
    common = dict(
        note=f'{rays} rays, {len(seconds[name])} test photos',
        detail={
            'frames_per_cpu_second': 1 / taken,
            'reference_frames_per_cpu_second': (
                1 / statistics.median(seconds['exact'])
            ),
        },
    )
    rows.append(
        harness.make_row(
            f'pictures/{name} vs exact/rays a CPU second', rays / taken,
            'rays/s', reference=rays / statistics.median(seconds['exact']),
            ratio=ratio, target=_SPEED_TARGET if name == 'fast' else None,
            **common,
        )
    )  # fmt: skip
    rows.append(
        harness.make_row(
            f'pictures/{name} vs exact/PSNR lost', loss, 'dB',
            reference=float(np.mean(scores['exact'])), ratio=loss,
            target=_LOSS_TARGET, rule='<=', **common,
        )
    )  # fmt: skip
  return rows


def flights(extent: float) -> dict[str, list[cameras_lib.Cameras]]:
  """A zoom onto the city's middle and a flight over it, by name."""
  heights = 1.6 * extent * 2.0 ** np.linspace(0, -4, _FRAMES)
  zoom = [
      views.camera_above([2.0, 2.0, 3.0], h, tilt=35.0, width=_WIDTH)
      for h in heights
  ]
  places = np.linspace(-0.25, 0.25, _FRAMES) * extent
  flight = [
      views.camera_above([x, 0.0, 3.0], 0.35 * extent, tilt=50.0, width=_WIDTH)
      for x in places
  ]
  return {'zoom': zoom, 'flight': flight}


def popping_rows(loaded) -> list[harness.Row]:
  """Popping and cost by the share of an octave that blends.

  Args:
    loaded: a LoadedScene of the procedural city.
  """
  city_config = loaded.config.data.city
  city = layout.make_city(seed=city_config.seed, extent=city_config.extent)
  rows = []
  for name, cameras in flights(city_config.extent).items():
    truth = np.stack(
        [rendering.render(city, c, with_depth=False).rgb for c in cameras]
    )
    found, seconds = {}, {}
    for blend in BLENDS:
      policy = levels.blended(loaded.options.level_policy, blend)
      options = dataclasses.replace(loaded.options, level_policy=policy)
      draw = lambda c, o=options: loaded.render(
          c, options=o, outputs=('rgb',)
      ).rgb
      draw(cameras[0])
      frames, seconds[blend] = _timed(
          lambda: np.stack([draw(c) for c in cameras])  # noqa: B023
      )
      found[blend] = popping.measure(frames, truth)
    for blend in BLENDS[1:]:
      largest, reference = found[blend]['largest'], found[0.0]['largest']
      rows.append(
          harness.make_row(
              f'pictures/popping/{name}/blend {blend:g}', largest, 'rms',
              reference=reference, ratio=largest / reference, target=1.0,
              rule='<=', note='largest step that the truth does not explain',
              detail={'blended': found[blend], 'plain': found[0.0]},
          )
      )  # fmt: skip
      cost = seconds[blend] / seconds[0.0]
      rows.append(
          harness.make_row(
              f'pictures/popping/{name}/blend {blend:g} cost', cost, 'ratio',
              ratio=cost, target=_BLEND_COST_TARGET, rule='<=',
              note='CPU time of a film against the same without blending',
          )
      )  # fmt: skip
  return rows


def rows(loaded) -> list[harness.Row]:
  """All rows of a run; popping only where the truth is known."""
  made = speed_rows(loaded)
  if loaded.config.data.path:
    return made + [
        harness.missing_row(
            'pictures/popping', 'rms', 'only the procedural city has a truth'
        )
    ]
  return made + popping_rows(loaded)
