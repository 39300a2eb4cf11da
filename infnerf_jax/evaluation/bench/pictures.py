"""Suite `pictures`: a run's pictures by the fast renderer and with blending.

Faster pictures are measured against the basic renderer in the same run, turn
by turn, by CPU time; popping on a zoom and a flight over the procedural city,
whose truth is exact.
"""

import dataclasses
import functools
import statistics
import time
from typing import Any, NamedTuple

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
# Of the final picture's time.
_PREVIEW_TARGET = 0.25
_STOP_BELOW = 1e-3
# Of each picture, the shortest counts: a neighbour's load is no picture's cost.
_TURNS = 3
# Samples by the number of intervals that weights spread over: from fewer, which
# are quicker, to more, which lose less; 0: all tiles have all.
_SAMPLES_PER_INTERVAL = (2.0, 3.0, 4.0, 5.0, 6.0, 0.0)
# The lowest altitude of films, metres: that of the lowest photos.
_LOWEST = 42.0
BLENDS = (0.0, 0.25, 0.5, 1.0)
_FRAMES = 24
_WIDTH = 96


def _timed(draw) -> tuple[Any, float, float]:
  """(what was drawn, CPU seconds, wall seconds)."""
  wall, start = time.perf_counter(), time.process_time()
  image = draw()
  return image, time.process_time() - start, time.perf_counter() - wall


class _Variant(NamedTuple):
  """A way to render.

  Attributes:
    scene: LoadedScene, with or without an occupancy grid.
    options: sampling.
  """

  scene: Any
  options: Any


def _variants(loaded, skipping) -> dict[str, _Variant]:
  """Ways to render by name; the first is the reference."""
  exact, change = loaded.options, dataclasses.replace
  fast = shared_proposals.fast(exact)
  shown = dict(min_weight=fast.min_weight)
  stop = dict(stop_below=_STOP_BELOW)
  tiles = dict(first_stride=8, proposal_stride=4)
  ways = {
      'exact': _Variant(loaded, exact),
      'occupancy': _Variant(skipping, exact),
      'colours of what shows': _Variant(loaded, change(exact, **shown)),
      'early stop': _Variant(loaded, change(exact, **shown, **stop)),
      'fast': _Variant(loaded, fast),
      'fast, early stop': _Variant(loaded, change(fast, **stop)),
      'fast, occupancy': _Variant(skipping, fast),
      'fast, no first look': _Variant(loaded, change(fast, first_stride=0)),
      'fast, first look 8 apart': _Variant(
          loaded, change(fast, first_stride=8)
      ),
      'fast, tiles of 4 x 4': _Variant(loaded, change(fast, **tiles)),
      'fast, tiles of 4 x 4, 5 samples an interval': _Variant(
          loaded, change(fast, **tiles, samples_per_interval=5.0)
      ),
  }  # fmt: skip
  for samples in _SAMPLES_PER_INTERVAL:
    if samples != fast.samples_per_interval:
      name = f'{samples:g} samples an interval' if samples else 'all samples'
      options = change(fast, samples_per_interval=samples)
      ways[f'fast, {name}'] = _Variant(loaded, options)
  return ways


class _Scores(NamedTuple):
  """Lists of one entry a view."""

  cpu: list[float]
  wall: list[float]
  psnr: list[float]


def _measure_variants(loaded, variants, max_views):
  """({name: _Scores}, rays of a picture); the variants take turns."""
  pyramid = loaded.open_pyramid()
  scores = {name: _Scores([], [], []) for name in variants}
  for row in loaded.split['test'][:max_views]:
    rgb, valid = pyramid_lib.photo(pyramid, row, 0)
    camera = cameras_lib.take(loaded.cameras, row)
    for name, variant in variants.items():
      draw = lambda v=variant, c=camera: v.scene.render(
          c, options=v.options, pixel_size=loaded.downscale, outputs=('rgb',)
      )
      if not scores[name].cpu:
        draw()  # compiles
      turns = [_timed(draw) for _ in range(_TURNS)]
      image, cpu, wall = turns[0][0], *(
          min(t[i] for t in turns) for i in (1, 2)
      )
      scores[name].cpu.append(cpu)
      scores[name].wall.append(wall)
      scores[name].psnr.append(metrics.psnr(image.rgb, rgb, valid))
  return scores, rgb.shape[0] * rgb.shape[1]


def speed_rows(loaded, *, max_views: int = 3) -> list[harness.Row]:
  """CPU time of pictures and their PSNR, by how they are rendered.

  Args:
    loaded: a LoadedScene whose photos are at hand.
    max_views: test photos.
  """
  skipping, baking, _ = _timed(loaded.with_occupancy)
  cells = np.asarray(skipping.model.occupancy.occupied)
  variants = _variants(loaded, skipping)
  scores, rays = _measure_variants(loaded, variants, max_views)
  rows = [
      harness.make_row(
          'pictures/occupancy grid/CPU time to make it', baking, 's',
          note=f'{len(cells)} cells, {100 * cells.mean():.1f} % occupied',
      )
  ]  # fmt: skip
  for name in list(variants)[1:]:
    rows += _variant_rows(name, scores[name], scores['exact'], rays)
  return rows


def _variant_rows(name, found: _Scores, exact: _Scores, rays):
  """Speed and loss of one way to render against the basic renderer."""
  faster = lambda a, b: statistics.median(x / y for x, y in zip(a, b))
  loss = float(np.mean(exact.psnr) - np.mean(found.psnr))
  rate = lambda seconds: 1 / statistics.median(seconds)
  common = dict(note=f'{rays} rays, {len(found.cpu)} test photos')
  speed = _SPEED_TARGET if name == 'fast' else None
  return [
      harness.make_row(
          f'pictures/{name} vs exact/rays a CPU second',
          rays * rate(found.cpu), 'rays/s', reference=rays * rate(exact.cpu),
          ratio=faster(exact.cpu, found.cpu), target=speed, **common,
      ),
      harness.make_row(
          f'pictures/{name} vs exact/frames a second', rate(found.wall),
          'frames/s', reference=rate(exact.wall),
          ratio=faster(exact.wall, found.wall), target=speed, **common,
      ),
      harness.make_row(
          f'pictures/{name} vs exact/PSNR lost', loss, 'dB',
          reference=float(np.mean(exact.psnr)), ratio=loss,
          target=_LOSS_TARGET if speed else None, rule='<=', **common,
      ),
  ]  # fmt: skip


def torch_rows(loaded, *, max_views: int = 1) -> list[harness.Row]:
  """Pictures of half the size by eager PyTorch of the same parameters.

  Args:
    loaded: a LoadedScene.
    max_views: test photos' cameras.
  """
  try:
    import torch

    from infnerf_jax.evaluation.bench import torch_pictures
  except ImportError:
    reason = 'torch is not installed'
    return [harness.missing_row('pictures/vs torch eager', 'rays/s', reason)]
  # More threads wait for each other on small nodes, at the cost of CPU time.
  torch.set_num_threads(1)
  peer = torch_pictures.Renderer(loaded)
  fast = shared_proposals.fast(loaded.options)
  seconds = {'exact': [], 'fast': [], 'torch': []}
  between, pixel_size = [], 2 * loaded.downscale
  for row in loaded.split['test'][:max_views]:
    camera = cameras_lib.take(loaded.cameras, row)
    rays = peer.rays(camera, pixel_size)
    draw = lambda o, c=camera: loaded.render(
        c, options=o, pixel_size=pixel_size, outputs=('rgb',)
    ).rgb
    ways = {
        'exact': functools.partial(draw, loaded.options),
        'fast': functools.partial(draw, fast),
        'torch': functools.partial(peer.render, *rays),
    }
    pictures = {}
    for name, way in ways.items():
      if name != 'torch':
        way()  # compiles
      pictures[name], *taken = min(
          (_timed(way), _timed(way)), key=lambda timed: timed[1]
      )
      seconds[name].append(taken)
    error = np.mean(np.square(pictures['exact'] - pictures['torch']))
    between.append(float(-10 * np.log10(max(error, 1e-12))))
  num = pictures['exact'].shape[0] * pictures['exact'].shape[1]
  cpu, wall = (
      {name: statistics.median(s[clock] for s in taken)
       for name, taken in seconds.items()}
      for clock in (0, 1)
  )  # fmt: skip
  return [
      harness.make_row(
          f'pictures/{name} vs torch eager/rays a CPU second', num / cpu[name],
          'rays/s', reference=num / cpu['torch'],
          ratio=cpu['torch'] / cpu[name],
          note=f'the same parameters; pictures agree to {min(between):.0f} dB'
          if name == 'exact' else 'the same parameters',
          detail={
              'frames_per_second': 1 / wall[name],
              'reference_frames_per_second': 1 / wall['torch'],
          },
      )
      for name in ('exact', 'fast')
  ]  # fmt: skip


def preview_rows(loaded) -> list[harness.Row]:
  """How soon the first of the coarse-to-fine pictures is there."""
  camera = cameras_lib.take(loaded.cameras, loaded.split['test'][0])
  draw = lambda: list(
      loaded.render_progressively(
          camera, pixel_size=loaded.downscale, outputs=('rgb',),
          options=shared_proposals.fast(loaded.options),
      )
  )  # fmt: skip
  draw()  # compiles
  first, *_, last = [step.seconds for step in draw()]
  return [
      harness.make_row(
          'pictures/coarse to fine/first picture', first, 's', reference=last,
          ratio=first / last, target=_PREVIEW_TARGET, rule='<=',
          note='wall time; reference: the final picture',
      )
  ]  # fmt: skip


def flights(extent: float) -> dict[str, list[cameras_lib.Cameras]]:
  """A zoom onto the city's middle and a flight over it, by name.

  Both keep above the roofs, where drones fly: among walls a picture's error
  changes by itself from frame to frame.
  """
  # From where the highest photos were taken: from farther away a picture shows
  # ground that no photo did.
  heights = _LOWEST * 2.0 ** np.linspace(2, 0, _FRAMES)
  zoom = [
      views.camera_at(
          (0.0, -0.2 * h), h, tilt=12.0, heading=0.0, width=_WIDTH
      )
      for h in heights
  ]  # fmt: skip
  places = np.linspace(-0.4, 0.1, _FRAMES) * extent
  flight = [
      views.camera_at((0.0, y), _LOWEST, tilt=45.0, heading=0.0, width=_WIDTH)
      for y in places
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
      frames, seconds[blend], _ = _timed(
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
  made = speed_rows(loaded) + torch_rows(loaded) + preview_rows(loaded)
  if loaded.config.data.path:
    return made + [
        harness.missing_row(
            'pictures/popping', 'rms', 'only the procedural city has a truth'
        )
    ]
  return made + popping_rows(loaded)
