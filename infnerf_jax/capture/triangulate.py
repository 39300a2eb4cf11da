"""Sparse points for scenes that come with poses alone.

Features are found and matched as for photos without poses; the points are then
triangulated (COLMAP) with poses and lenses held as they are.
"""

import pathlib
import shutil

import numpy as np

from infnerf_jax import errors
from infnerf_jax.capture import metadata, pairs, structure
from infnerf_jax.capture import photos as photos_lib
from infnerf_jax.geometry import cameras as cameras_lib
from infnerf_jax.geometry.colmap_library import pycolmap
from infnerf_jax.scene import camera_models, photo_files
from infnerf_jax.scene import scene as scene_lib

_MAX_EXHAUSTIVE = 40
_MIN_POINTS = 10


def add_points(
    scene: scene_lib.Scene, work, options: structure.Options
) -> scene_lib.Scene:
  """A scene with the points that its photos share.

  Args:
    scene: photos and cameras; points that it has are replaced.
    work: folder for features and matches; it is kept, and taken up again.
    options: of the features.

  Returns:
    Scene with points and visibility.

  Raises:
    InputError: a folder that cannot be written, photos that share nothing.
  """
  work = pathlib.Path(work)
  try:
    work.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise errors.InputError(
        f'{work}: got {error.strerror}, expected a folder that can be written'
    ) from None
  photos = _photos(scene)
  structure.place_photos(photos, work)
  structure.extract_features(photos, work, options)
  structure.set_cameras(work, _known_cameras(scene, photos))
  structure.match(photos, _pairs(scene), work, options)
  model = _known_model(scene, photos, work)
  out = work / 'triangulated'
  shutil.rmtree(out, ignore_errors=True)
  out.mkdir()
  try:
    with structure.quiet():
      model = pycolmap.triangulate_points(
          model, work / 'database.db', work / 'images', out
      )
  except Exception as error:  # pycolmap raises ValueError, RuntimeError, ...
    raise errors.InputError(
        f'{work}: got {photo_files.reason(error)}, expected photos whose'
        ' points can be triangulated'
    ) from None
  return _with_points(scene, model, photos)


def _lens(scene, row: int) -> camera_models.Lens:
  camera = cameras_lib.take(scene.cameras, row)
  return camera_models.Lens(
      int(camera.projection), camera.intrinsics, camera.distortion
  )


def _photos(scene) -> list[photos_lib.Photo]:
  """Photos of equal lenses as if of one camera, whatever their EXIF says."""
  found = []
  for row, (name, path, mask) in enumerate(zip(*scene.photos, strict=True)):
    size = int(scene.cameras.width[row]), int(scene.cameras.height[row])
    camera = (repr(camera_models.to_colmap(_lens(scene, row))), '', '', '')
    written = metadata.Metadata(camera, None, '', None)
    found.append(photos_lib.Photo(name, path, mask, size, written))
  return found


def _known_cameras(scene, photos) -> dict[str, pycolmap.Camera]:
  """Each photo's lens under its name in the database."""
  cameras = {}
  for row, photo in enumerate(photos):
    model, params = camera_models.to_colmap(_lens(scene, row))
    cameras[structure.sfm_name(photo)] = pycolmap.Camera(
        model=model, width=photo.size[0], height=photo.size[1], params=params
    )
  return cameras


def _pairs(scene) -> np.ndarray:
  """Neighbours by where the cameras are; all pairs of a few."""
  names = scene.photos.names
  if len(names) <= _MAX_EXHAUSTIVE:
    return pairs.make_pairs('exhaustive', names)
  centres = np.asarray(scene.cameras.cam_to_world)[:, :, 3]
  return pairs.make_pairs('spatial', names, centres)


def _known_model(scene, photos, work) -> pycolmap.Reconstruction:
  """The scene's cameras and poses under the database's numbers."""
  known = structure.image_ids(work)
  cameras = _known_cameras(scene, photos)
  model = pycolmap.Reconstruction()
  for row, photo in enumerate(photos):
    name = structure.sfm_name(photo)
    if name not in known:
      continue
    image_id, camera_id = known[name]
    if camera_id not in model.cameras:
      cameras[name].camera_id = camera_id
      model.add_camera_with_trivial_rig(cameras[name])
    pose = np.asarray(scene.cameras.cam_to_world[row], np.float64)
    rotation = pose[:, :3].T
    shift = -rotation @ pose[:, 3]
    model.add_image_with_trivial_frame(
        pycolmap.Image(name=name, camera_id=camera_id, image_id=image_id),
        pycolmap.Rigid3d(np.concatenate([rotation, shift[:, None]], axis=1)),
    )
  return model


def _with_points(scene, model, photos) -> scene_lib.Scene:
  row_of = {structure.sfm_name(p): row for row, p in enumerate(photos)}
  rows = {i.image_id: row_of[i.name] for i in model.images.values()}
  positions, colors, offsets, photo_idx = [], [], [0], []
  for _, point in sorted(model.points3D.items()):
    if not np.isfinite(point.xyz).all():
      continue
    positions.append(point.xyz)
    colors.append(point.color)
    photo_idx += sorted({rows[e.image_id] for e in point.track.elements})
    offsets.append(len(photo_idx))
  if len(positions) < _MIN_POINTS:
    raise errors.InputError(
        f'photos: got {len(positions)} points that they share, expected at'
        f' least {_MIN_POINTS} (do the poses belong to these photos?)'
    )
  error = float(model.compute_mean_reprojection_error())
  report = {
      **scene.report,
      'num_points': len(positions),
      'visibility': 'triangulated',
      'triangulation_error_pixels': error,
  }
  return scene._replace(
      points=scene_lib.Points(
          np.array(positions, np.float64), np.array(colors, np.uint8)
      ),
      visibility=scene_lib.Visibility(
          np.array(offsets, np.int64), np.array(photo_idx, np.int32)
      ),
      report=report,
  )
