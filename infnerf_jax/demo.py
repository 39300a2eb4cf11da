"""The library's main functions, one after another, on a small city."""

import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from infnerf_jax import json_files, loaded, profiler
from infnerf_jax.evaluation import train_and_evaluate
from infnerf_jax.geometry import cameras
from infnerf_jax.octree import build, levels
from infnerf_jax.products import octree_report
from infnerf_jax.render import render_rays
from infnerf_jax.scene import readers
from infnerf_jax.training import settings

_SIZE = (192, 144)
_OUTPUTS = ('rgb', 'depth', 'opacity', 'statistics')


def _lod_table(octree) -> dict[str, int]:
  """Octree level by height above the ground of a camera of 400 pixels."""
  heights = (2.0, 20.0, 200.0, 2000.0, 20_000.0)
  footprint = jnp.asarray(heights) * 0.564 / 300.0
  level = levels.determine_lod_level(
      footprint, root_gsd=octree.root_gsd, max_level=octree.num_levels - 1
  )
  return {f'{h:g} m': int(x) for h, x in zip(heights, level, strict=True)}


def _views(scene) -> dict[str, cameras.Cameras]:
  """Three cameras: oblique, from above, from far above."""
  center = scene.octree.center
  width, height = _SIZE
  at = lambda offset: cameras.make_camera(
      focal=0.75 * width,
      width=width,
      height=height,
      cam_to_world=cameras.look_at(center + np.array(offset), center),
  )
  return {
      'oblique': at((-45.0, -45.0, 45.0)),
      'nadir': at((0.0, 0.0, 75.0)),
      'far': at((0.0, 0.0, 300.0)),
  }


def _render_views(scene, out, profile) -> dict[str, Any]:
  """Renders the views to PNG; (nodes touched, rays) by view."""
  facts = {}
  for name, camera in _views(scene).items():
    with profile.profile(name) as section:
      image = section.block(
          scene.render(camera, max_memory_gb=1.0, outputs=_OUTPUTS)
      )
    picture = np.round(255 * np.clip(np.asarray(image.rgb), 0, 1))
    Image.fromarray(picture.astype(np.uint8)).save(out / f'{name}.png')
    touched = int(np.sum(image.statistics.touched_slots))
    facts[name] = {
        'nodes_touched': touched,
        'nodes': scene.octree.num_nodes,
        'opacity': float(np.mean(image.opacity)),
    }
  return facts


def _central_ray(scene) -> dict[str, Any]:
  """`render_rays` by hand: one ray, its colour, depth and weights."""
  octree = scene.octree
  table = cameras.to_device(
      cameras.stack([_views(scene)['nadir']]), octree.root_min, octree.side
  )
  rays = cameras.camera_rays(
      table,
      jnp.zeros(1, jnp.int32),
      jnp.asarray([[_SIZE[0] / 2, _SIZE[1] / 2]], jnp.float32),
      jnp.ones(1),
      root_side=octree.side,
  )
  appearance = jnp.asarray(scene.appearance())[None]
  colors = render_rays.render_rays(
      scene.model, scene.spec, rays, appearance, scene.options
  )
  return {
      'rgb': np.asarray(colors.rgb[0]).tolist(),
      'distance': float(colors.distance[0, 0]),
      'opacity': float(colors.opacity[0, 0]),
      'num_weights': int(colors.weights.shape[-1]),
  }


def run(config, out) -> dict[str, Any]:
  """Runs the demo.

  Args:
    config: of a short run on the embedded city (`configs/quickstart.py:demo`).
    out: folder for pictures and `demo.json`.

  Returns:
    What `demo.json` says.
  """
  out = pathlib.Path(out)
  out.mkdir(parents=True, exist_ok=True)
  profile = profiler.Profiler()
  with profile.profile('train and evaluate'):
    scores = train_and_evaluate.train_and_evaluate(config, out / 'run')
  source = readers.load_scene(out / 'run' / 'scene')
  with profile.profile('build octree'):
    built = build.build_octree(source, settings.build_options(config))
  octree_report.visualize_octree(
      built.octree, None, out / 'octree.png', points=source.points.positions
  )
  scene = loaded.load(out / 'run')
  result = {
      'psnr': scores['psnr'],
      'ssim': scores['ssim'],
      'by_pyramid_level': scores['by_pyramid_level'],
      'memory': octree_report.analyze_octree_memory(scene.octree, scene.spec),
      'level_by_height': _lod_table(scene.octree),
      'central_ray': _central_ray(scene),
      'views': _render_views(scene, out, profile),
  }
  json_files.write_json_atomic(out / 'demo.json', result)
  print(profile.summary())
  return result
