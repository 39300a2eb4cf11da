"""The largest model as a scene, in metres on the map where that is known."""

import pathlib
import shutil
from typing import NamedTuple

import numpy as np

from infnerf_jax.capture import (
    georeference,
    ground_control,
    similarity,
    structure,
)
from infnerf_jax.geometry.colmap_library import pycolmap
from infnerf_jax.scene import colmap, validate
from infnerf_jax.scene import scene as scene_lib


class Placed(NamedTuple):
  """How a model became a scene.

  Attributes:
    reconstruction: the model, in the scene's frame.
    rows: rows of the registered photos in the plan, in the model's order.
    georeference: georeference.Georeference of these rows, or None.
    control: what the ground control points say, or None.
  """

  reconstruction: pycolmap.Reconstruction
  rows: list[int]
  georeference: georeference.Georeference | None
  control: dict | None = None


def make_scene(plan, models, work: pathlib.Path):
  """The largest model as a scene, in metres on the map where GPS says so.

  Args:
    plan: prepare.Plan.
    models: see `mapping.read_models`.
    work: folder with `images/`.

  Returns:
    (Scene, Placed).
  """
  _, model = models[0]
  row_of = {
      structure.sfm_name(p): row for row, p in enumerate(plan.folder.photos)
  }
  images = sorted(
      (im for im in model.images.values() if im.has_pose),
      key=lambda image: image.name,
  )
  rows = [row_of[image.name] for image in images]
  poses = np.stack([im.cam_from_world().inverse().matrix() for im in images])
  placed, places, control = None, plan.places, None
  if places is not None:
    places = places._replace(positions=places.positions[rows])
  if plan.survey is not None:
    names = [pathlib.PurePath(plan.folder.photos[r].name).name for r in rows]
    by_name = dict(zip(names, images, strict=True))
    found = ground_control.place(plan.survey, model, by_name)
    control = found.report
    placed = georeference.by_control(
        plan.survey.epsg, found.offset, found.transform, poses, places
    )
  elif places is not None:
    placed = georeference.align(poses, places)
  frame, transform, placed = _frame(placed, poses, plan, model)
  model.transform(
      pycolmap.Sim3d(
          transform.scale,
          pycolmap.Rotation3d(transform.rotation),
          transform.translation,
      )
  )
  aligned = work / 'aligned'
  shutil.rmtree(aligned, ignore_errors=True)
  (aligned / 'sparse' / '0').mkdir(parents=True)
  model.write(str(aligned / 'sparse' / '0'))
  (aligned / 'images').symlink_to((work / 'images').resolve())
  draft = _with_originals(colmap.read(aligned), plan, row_of)
  draft.report.pop('model', None)
  draft = draft._replace(frame={**draft.frame, **frame})
  scene: scene_lib.Scene = validate.finish(draft)
  return scene, Placed(model, rows, placed, control)


def _with_originals(draft, plan, row_of):
  """The draft with the user's files in place of links and copies."""
  originals = [plan.folder.photos[row_of[name]] for name in draft.names]
  return draft._replace(
      names=[photo.name for photo in originals],
      paths=[photo.path for photo in originals],
      mask_paths=[photo.mask_path for photo in originals],
  )


def _frame(placed, poses, plan, model):
  """(fields of scene.json, similarity to the scene, georeference)."""
  if placed is None:
    rotation = georeference.level_model(poses)
    transform = similarity.Similarity(1.0, rotation, np.zeros(3))
    names = {'coordinate_system': 'local, scale unknown'}
    return names, transform, None
  # Ground at about z = 0; whole metres, so that sums with it are exact.
  ground = [p.xyz for p in model.points3D.values()]
  shift = np.zeros(3)
  if ground:
    heights = similarity.apply(placed.transform, np.array(ground))[:, 2]
    shift[2] = np.round(np.median(heights))
  transform = placed.transform._replace(
      translation=placed.transform.translation - shift
  )
  placed = placed._replace(offset=placed.offset + shift, transform=transform)
  if plan.survey is not None:
    height = 'as in the ground control points'
  else:
    has_height = plan.places.has_height
    height = 'as in the GPS of the photos' if has_height else 'none'
  frame = {
      'coordinate_system': f'EPSG:{placed.epsg}',
      'offset': placed.offset.tolist(),
      'rotation': np.eye(3).tolist(),
      'vertical_datum': height,
      'model_to_scene': {
          'scale': transform.scale,
          'rotation': transform.rotation.tolist(),
          'translation': transform.translation.tolist(),
      },
  }
  return frame, transform, placed
