"""Films: pictures, depth and video of the views of a camera path."""

import contextlib
import dataclasses
import functools
import pathlib
import resource
import sys
from typing import Any

import jax
import matplotlib
import numpy as np
from PIL import Image, PngImagePlugin

from infnerf_jax import json_files, progress
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.octree import levels
from infnerf_jax.products import camera_path, film_journal, level_pictures
from infnerf_jax.products import video as video_lib
from infnerf_jax.render import render_image, render_rays, shared_proposals

# A pixel that shows less than this of anything has no depth.
_MIN_OPACITY = 0.5
DEPTH_KEY = 'depth_scale_metres'


def to_bytes(rgb) -> np.ndarray:
  """[H, W, 3] uint8 of float colours, rounded."""
  return np.round(255 * np.clip(rgb, 0.0, 1.0)).astype(np.uint8)


def write_depth(path, depth, opacity) -> float:
  """Writes depth as a 16-bit PNG.

  A pixel's value times the scale is metres; 0 is none. The scale is returned
  and stands in the PNG's text under `depth_scale_metres`.

  Args:
    path: file.
    depth: [H, W] metres.
    opacity: [H, W]; below one half there is no depth.

  Returns:
    metres a unit.
  """
  depth = np.asarray(depth, np.float64)
  known = (
      np.isfinite(depth) & (depth > 0) & (np.asarray(opacity) >= _MIN_OPACITY)
  )
  largest = float(depth[known].max()) if known.any() else 1.0
  scale = largest / 65535
  units = np.where(known, np.clip(np.round(depth / scale), 1, 65535), 0)
  text = PngImagePlugin.PngInfo()
  text.add_text(DEPTH_KEY, repr(scale))
  Image.fromarray(units.astype(np.uint16)).save(path, pnginfo=text)
  return scale


def read_depth(path) -> np.ndarray:
  """[H, W] float64 metres from `write_depth`'s file; 0 where there is none."""
  with Image.open(path) as image:
    scale = float(image.text[DEPTH_KEY])
    return np.asarray(image).astype(np.float64) * scale


def _known_log(depth, opacity):
  """([H, W] log of the depth, [H, W] bool where there is one)."""
  depth = np.asarray(depth, np.float64)
  known = (
      np.isfinite(depth) & (depth > 0) & (np.asarray(opacity) >= _MIN_OPACITY)
  )
  return np.log(np.where(known, depth, 1.0)), known


def depth_limits(depth, opacity, before=None):
  """Logarithms of the depths that the ends of the colours stand for.

  Args:
    depth: [H, W] metres.
    opacity: [H, W].
    before: limits of the view before, which change little at a time: a film
      whose every view had limits of its own would flicker.

  Returns:
    [2] float64; `before` where nothing has a depth.
  """
  value, known = _known_log(depth, opacity)
  if not known.any():
    return before
  limits = np.percentile(value[known], [2, 98])
  return limits if before is None else before + 0.2 * (limits - before)


def color_depth(depth, opacity, limits=None) -> np.ndarray:
  """Depth as a picture: near is red, far is blue, nothing is black.

  Args:
    depth: [H, W] metres.
    opacity: [H, W].
    limits: see `depth_limits`; None: of this picture.

  Returns:
    [H, W, 3] uint8, even steps of colour for even factors of depth.
  """
  value, known = _known_log(depth, opacity)
  if not known.any():
    return np.zeros(value.shape + (3,), np.uint8)
  low, high = depth_limits(depth, opacity) if limits is None else limits
  share = np.clip((high - value) / max(high - low, 1e-6), 0.0, 1.0)
  colors = matplotlib.colormaps['turbo'](share)[..., :3]
  return to_bytes(np.where(known[..., None], colors, 0.0))


def peak_bytes() -> dict[str, Any]:
  """Largest memory so far: the device's, or the process's on a CPU."""
  statistics = jax.devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in statistics:
    return {
        'peak_bytes': int(statistics['peak_bytes_in_use']),
        'peak_bytes_of': 'device',
    }
  unit = 1 if sys.platform == 'darwin' else 1024
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
  return {'peak_bytes': int(peak), 'peak_bytes_of': 'process'}


def _write_frame(image, colored, name, out) -> dict[str, Any]:
  """Files of one view and what the report says of it."""
  stem = name.replace('/', '_').rsplit('.', 1)[0]
  files = {
      'rgb': f'frames/{stem}.png',
      'depth': f'depth/{stem}.png',
      'depth_color': f'depth_color/{stem}.png',
  }
  Image.fromarray(to_bytes(image.rgb)).save(out / files['rgb'])
  scale = write_depth(out / files['depth'], image.depth, image.opacity)
  Image.fromarray(colored).save(out / files['depth_color'])
  if image.level is not None:
    files['level'] = f'level/{stem}.png'
    level_pictures.write_levels(out / files['level'], image.level)
  counts = image.statistics.samples_by_level
  return {
      'name': name,
      **files,
      DEPTH_KEY: scale,
      'seconds': image.seconds,
      'num_rays': image.num_rays,
      'nodes_touched': int(image.statistics.touched_slots.sum()),
      'samples_by_level': (counts / max(counts.sum(), 1)).tolist(),
  }


def _speed(frames) -> dict[str, Any]:
  """Rays a second without the first view, which compiles."""
  timed = frames[1:] or frames
  seconds = sum(frame['seconds'] for frame in timed)
  return {
      'rays_per_second': sum(f['num_rays'] for f in timed) / max(seconds, 1e-9),
      'first_view_seconds': frames[0]['seconds'],
  }


def film_options(
    loaded, *, fast: bool, level_blend: float
) -> render_rays.RenderOptions:
  """Sampling of films from a scene's own.

  Args:
    loaded: a LoadedScene or StoreScene.
    fast: whether tiles share proposals (`render.shared_proposals`).
    level_blend: share of an octave over which levels fade, 0 is none.

  Returns:
    RenderOptions.
  """
  policy = levels.blended(loaded.options.level_policy, level_blend)
  options = dataclasses.replace(loaded.options, level_policy=policy)
  return shared_proposals.fast(options) if fast else options


def _film_size(path) -> tuple[int, int]:
  """Width and height that hold all views; videos want even numbers."""
  sizes = [
      render_image.image_size(
          cameras_lib.take(path.cameras, row), pixel_size=path.pixel_size
      )
      for row in range(len(path.names))
  ]
  width, height = (int(n) for n in -(-np.max(sizes, axis=0) // 2) * 2)
  return width, height


def _render_views(loaded, render, path, out, journal, show_progress):
  """Renders and writes all views that are not there: the rows rendered."""
  rendered, limits = [], None
  with contextlib.ExitStack() as stack:
    video = lambda name: stack.enter_context(
        video_lib.Video(out / name, *_film_size(path), fps=path.fps)
    )
    film, depth_film = video('film.mp4'), video('depth.mp4')
    bar = None
    if show_progress:
      bar = stack.enter_context(
          progress.Progress(
              len(path.names),
              first=len(journal.done),
              description='render (views)',
          )
      )
    for row, name in enumerate(path.names):
      entry = journal.done.get(name)
      if entry is None:
        entry, pictures = _render_view(loaded, render, path, row, out, limits)
        journal.add(entry)
        rendered.append(name)
      else:
        pictures = journal.pictures(entry['frame'])
      limits = entry['limits'] and np.asarray(entry['limits'])
      film.add(pictures[0])
      depth_film.add(pictures[1])
      if bar is not None and rendered:
        frames = [journal.done[n]['frame'] for n in rendered]
        bar.update(len(journal.done), **_only_speed(frames))
  return rendered


def _render_view(loaded, render, path, row, out, limits):
  """One view and its files: (entry of the journal, its two pictures)."""
  more = {}
  if hasattr(loaded, 'prefetch') and row + 1 < len(path.names):
    # While this view is computed, the next one's nodes are read.
    more['following'] = cameras_lib.take(path.cameras, row + 1)
  image = render(cameras_lib.take(path.cameras, row), **more)
  limits = depth_limits(image.depth, image.opacity, limits)
  colored = color_depth(image.depth, image.opacity, limits)
  frame = _write_frame(image, colored, path.names[row], out)
  entry = {
      'frame': {**frame, **_streaming_report(loaded)},
      'limits': None if limits is None else limits.tolist(),
      'ray_block': image.ray_block,
  }
  return entry, (to_bytes(image.rgb), colored)


def render_film(
    loaded,
    path: camera_path.CameraPath,
    out,
    *,
    appearance: str | None = None,
    max_memory_gb: float | None = None,
    options: render_rays.RenderOptions | None = None,
    level_map: bool = False,
    show_progress: bool = True,
) -> dict[str, Any]:
  """Renders a path: `frames/`, `depth/`, `depth_color/`, MP4s, `render.json`.

  A film that was interrupted goes on behind its last finished view.

  Args:
    loaded: a LoadedScene, or what renders like one.
    path: views.
    out: folder, made where it is absent.
    appearance: name of a photo, None for the mean embedding.
    max_memory_gb: see `render_image`; None is the run's.
    options: sampling, see `film_options`; None is as in training.
    level_map: write `level/` as well, see `level_pictures`.
    show_progress: draw a progress bar.

  Returns:
    What `render.json` says.
  """
  out = pathlib.Path(out)
  levels_too = ('level',) if level_map else ()
  for folder in ('frames', 'depth', 'depth_color', *levels_too):
    (out / folder).mkdir(parents=True, exist_ok=True)
  more = {'max_memory_gb': max_memory_gb} if max_memory_gb else {}
  more.update({'options': options} if options else {})
  embedding = loaded.appearance(appearance)
  render = functools.partial(
      loaded.render,
      appearance=embedding,
      pixel_size=path.pixel_size,
      outputs=('rgb', 'depth', 'opacity', 'statistics', *levels_too),
      **more,
  )
  job = film_journal.identity(
      loaded, path, embedding, options, max_memory_gb, levels_too
  )
  with film_journal.FilmJournal(out, job) as journal:
    rendered = _render_views(loaded, render, path, out, journal, show_progress)
    report = _film_report(loaded, path, journal, rendered)
    json_files.write_json_atomic(out / 'render.json', report)
    journal.finish()
  return report


def _film_report(loaded, path, journal, rendered) -> dict[str, Any]:
  """What `render.json` says; speed is that of the views of this call."""
  entries = [journal.done[name] for name in path.names]
  frames = [entry['frame'] for entry in entries]
  timed = [journal.done[name]['frame'] for name in rendered] or frames
  touched = [frame['nodes_touched'] for frame in frames]
  size = _film_size(path)
  num_nodes = getattr(loaded, 'num_nodes', loaded.octree.num_nodes)
  return {
      **_speed(timed),
      **peak_bytes(),
      'ray_block': entries[-1]['ray_block'],
      'num_rays': sum(frame['num_rays'] for frame in frames),
      'num_nodes': num_nodes,
      'nodes': num_nodes,
      'nodes_touched_mean': float(np.mean(touched)),
      'nodes_touched_max': max(touched),
      'width': size[0],
      'height': size[1],
      'fps': path.fps,
      'num_frames': len(frames),
      'num_frames_resumed': len(frames) - len(rendered),
      'films': ['film.mp4', 'depth.mp4'],
      **_streaming_summary(loaded, frames),
      'frames': frames,
  }


def _streaming_report(loaded) -> dict[str, Any]:
  """What a view took out of a store; empty for a run's workdir."""
  return dict(getattr(loaded, 'frame_report', None) or {})


def _streaming_summary(loaded, frames) -> dict[str, Any]:
  """What a film took out of a store; empty for a run's workdir."""
  if not hasattr(loaded, 'memory_report'):
    return {}
  damaged, unreachable = {}, set()
  for frame in frames:
    damaged.update(frame['damaged'])
    pages = frame['damaged_pages']
    damaged.update({f'tree/{key}': why for key, why in pages.items()})
    unreachable.update(frame['unreachable'])
    unreachable.update(f'tree/{key}' for key in frame['unreachable_pages'])
  # The first view has nobody to read ahead of it.
  timed = frames[1:] or frames
  seconds = sum(f['read_seconds'] + f['render_seconds'] for f in timed)
  return {
      'level_bias_max': max(frame['level_bias'] for frame in frames),
      'rows_read': sum(frame['rows_read'] for frame in frames),
      'read_wait_share': (
          sum(f['read_seconds'] for f in timed) / max(seconds, 1e-9)
      ),
      'damaged_nodes': damaged,
      'unreachable_nodes': sorted(unreachable),
      'memory': loaded.memory_report(),
  }


def _only_speed(frames):
  return {'rays_per_second': _speed(frames)['rays_per_second']}
