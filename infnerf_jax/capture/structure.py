"""Structure from motion with COLMAP on the CPU, in stages that resume.

Work lies in one folder: `images/` (links to the photos), `database.db`
(features and matches, written as they come) and `sparse/N` (models).
"""

import collections
import contextlib
import os
import pathlib
import shutil
import tempfile
from typing import NamedTuple

import numpy as np
import PIL.Image
import pycolmap

from infnerf_jax import errors, json_files, progress
from infnerf_jax.capture import photos as photos_lib
from infnerf_jax.scene import decode

# Photos a call and pairs a call: what a kill loses, what the bar shows.
_FEATURE_BATCH = 8
_MATCH_BATCH = 64
# COLMAP's reader knows neither; PNG copies serve.
_COPIED = ('.webp',)
# One lens seen this often supports separate fx, fy and tangential terms.
_MIN_OPENCV = 30
_SEED = 0
_MIN_PAIR_MATCHES = 15
_DONE = 'mapping.json'


class Options(NamedTuple):
  """What structure from motion is told.

  Attributes:
    max_size: pixels; features are sought in photos made this small.
    max_features: per photo.
    threads: -1 is all.
  """

  max_size: int = 2000
  max_features: int = 4096
  threads: int = -1


class Links(NamedTuple):
  """What mapping saw of each photo; rows as the photos.

  Attributes:
    num_features: [N] int64.
    num_partners: [N] int64, photos with which it shares enough matches.
  """

  num_features: np.ndarray
  num_partners: np.ndarray


@contextlib.contextmanager
def quiet():
  """COLMAP logs a page a photo; errors still come as exceptions."""
  before = pycolmap.logging.minloglevel
  pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
  try:
    yield
  finally:
    pycolmap.logging.minloglevel = before


def _is_copied(photo: photos_lib.Photo) -> bool:
  return photo.path.suffix.lower() in _COPIED


def sfm_name(photo: photos_lib.Photo) -> str:
  """The photo's name in the database: no spaces, COLMAP's lists split there."""
  name = photo.name.replace('%', '%25').replace(' ', '%20')
  return f'{name}.png' if _is_copied(photo) else name


def place_photos(photos, work: pathlib.Path) -> None:
  """Links photos and masks into the work folder, under COLMAP's names."""
  shutil.rmtree(work / 'images', ignore_errors=True)
  shutil.rmtree(work / 'masks', ignore_errors=True)
  for photo in photos:
    name = sfm_name(photo)
    target = work / 'images' / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not _is_copied(photo):
      os.symlink(photo.path.resolve(), target)
    else:
      rgb, _ = decode.read_photo(photo.path)
      PIL.Image.fromarray(rgb).save(target, compress_level=1)
    if photo.mask_path is not None:
      mask = work / 'masks' / f'{name}.png'
      mask.parent.mkdir(parents=True, exist_ok=True)
      os.symlink(photo.mask_path.resolve(), mask)


def group_by_lens(photos) -> list[list[photos_lib.Photo]]:
  """Photos that share camera, focal length and size, in order of name."""
  groups = collections.defaultdict(list)
  for photo in photos:
    groups[photo.metadata.camera, photo.size].append(photo)
  return list(groups.values())


def extract_features(photos, work: pathlib.Path, options: Options) -> None:
  """Finds features; photos that have theirs in the database are left alone.

  Args:
    photos: to look at.
    work: folder with `images/`.
    options: see `Options`.
  """
  path = work / 'database.db'
  with quiet(), _database(path) as database:
    known = {im.name: im for im in database.read_all_images()}
    done = {
        name
        for name, image in known.items()
        if database.exists_keypoints(image.image_id)
    }
  num_done = len(done)
  with progress.Progress(
      len(photos), first=num_done, description='features'
  ) as bar:
    for group in group_by_lens(photos):
      names = [sfm_name(photo) for photo in group]
      camera_id = next((known[n].camera_id for n in names if n in known), None)
      left = [n for n in names if n not in done]
      for start in range(0, len(left), _FEATURE_BATCH):
        batch = left[start : start + _FEATURE_BATCH]
        reader = _reader(group, work, camera_id)
        with quiet():
          _extract(path, work / 'images', batch, reader, options)
        if camera_id is None:
          with _database(path) as database:
            image = database.read_image_with_name(batch[0])
            camera_id = image.camera_id if image else None
        num_done += len(batch)
        bar.update(num_done)


def _extract(path, images, names, reader, options: Options) -> None:
  extraction = pycolmap.FeatureExtractionOptions()
  extraction.max_image_size = options.max_size
  extraction.num_threads = options.threads
  extraction.use_gpu = False
  extraction.sift.max_num_features = options.max_features
  pycolmap.extract_features(
      path,
      images,
      image_names=names,
      camera_mode=pycolmap.CameraMode.SINGLE,
      reader_options=reader,
      extraction_options=extraction,
      device=pycolmap.Device.cpu,
  )


def _reader(group, work, camera_id) -> pycolmap.ImageReaderOptions:
  """The lens of a group: as the database has it, or by EXIF."""
  reader = pycolmap.ImageReaderOptions()
  if (work / 'masks').is_dir():
    reader.mask_path = work / 'masks'
  opencv = len(group) >= _MIN_OPENCV
  reader.camera_model = 'OPENCV' if opencv else 'SIMPLE_RADIAL'
  if camera_id is not None:
    reader.existing_camera_id = camera_id
    return reader
  focals = [p.metadata.focal for p in group if p.metadata.focal is not None]
  if focals:
    focal, (width, height) = float(np.median(focals)), group[0].size
    params = [focal, width / 2, height / 2, 0.0]
    if opencv:
      params = [focal, focal, width / 2, height / 2, 0.0, 0.0, 0.0, 0.0]
    reader.camera_params = ','.join(map(repr, params))
  return reader


@contextlib.contextmanager
def _database(path):
  try:
    database = pycolmap.Database.open(path)
  except Exception as error:
    raise errors.InputError(
        f'{path}: got {" ".join(str(error).split())[:120]}, expected a COLMAP'
        ' database (delete the folder to start anew)'
    ) from None
  try:
    yield database
  finally:
    database.close()


def match(photos, pairs, work: pathlib.Path, options: Options) -> None:
  """Matches pairs and checks their geometry; known pairs are left alone.

  Args:
    photos: N photos.
    pairs: [P, 2] rows.
    work: folder with the database.
    options: see `Options`.
  """
  path = work / 'database.db'
  names = [sfm_name(photo) for photo in photos]
  with quiet(), _database(path) as database:
    ids = {im.name: im.image_id for im in database.read_all_images()}
    known = set(database.read_two_view_geometry_num_inliers()[0])
  todo = [
      (names[i], names[j])
      for i, j in pairs
      if names[i] in ids
      and names[j] in ids
      and pycolmap.image_pair_to_pair_id(ids[names[i]], ids[names[j]])
      not in known
  ]
  options_m = pycolmap.FeatureMatchingOptions()
  options_m.use_gpu = False
  options_m.num_threads = options.threads
  geometry = pycolmap.TwoViewGeometryOptions()
  geometry.ransac.random_seed = _SEED
  first = len(pairs) - len(todo)
  with progress.Progress(len(pairs), first=first, description='pairs') as bar:
    for start in range(0, len(todo), _MATCH_BATCH):
      batch = todo[start : start + _MATCH_BATCH]
      _match_batch(path, batch, options_m, geometry)
      bar.update(first + start + len(batch))


def _match_batch(path, pairs, matching, geometry) -> None:
  with tempfile.NamedTemporaryFile('w', suffix='.txt', dir=path.parent) as file:
    file.writelines(f'{a} {b}\n' for a, b in pairs)
    file.flush()
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = file.name
    with quiet():
      pycolmap.match_image_pairs(
          path,
          matching_options=matching,
          pairing_options=pairing,
          verification_options=geometry,
          device=pycolmap.Device.cpu,
      )


def read_links(photos, work: pathlib.Path) -> Links:
  """Features and partners of each photo, from the database."""
  with quiet(), _database(work / 'database.db') as database:
    ids = {im.name: im.image_id for im in database.read_all_images()}
    pair_ids, counts = database.read_two_view_geometry_num_inliers()
    features = [
        database.num_keypoints_for_image(ids[sfm_name(p)])
        if sfm_name(p) in ids
        else 0
        for p in photos
    ]
  partners = collections.Counter()
  for pair_id, count in zip(pair_ids, counts, strict=True):
    if count >= _MIN_PAIR_MATCHES:
      partners.update(pycolmap.pair_id_to_image_pair(pair_id))
  num_partners = [partners[ids.get(sfm_name(p), -1)] for p in photos]
  return Links(np.array(features, np.int64), np.array(num_partners, np.int64))


def image_ids(work: pathlib.Path) -> dict[str, tuple[int, int]]:
  """(image, camera) numbers of the database's photos by their name there."""
  with quiet(), _database(work / 'database.db') as database:
    return {
        im.name: (im.image_id, im.camera_id)
        for im in database.read_all_images()
    }


def set_cameras(work: pathlib.Path, cameras) -> None:
  """Gives the database's photos lenses that are known.

  Args:
    work: folder with the database.
    cameras: pycolmap.Camera by the photo's name there; photos that share a
      camera have equal ones.
  """
  with quiet(), _database(work / 'database.db') as database:
    for image in database.read_all_images():
      if image.name in cameras:
        cameras[image.name].camera_id = image.camera_id
        database.update_camera(cameras[image.name])


def map_models(
    num_photos: int, work: pathlib.Path, options: Options
) -> dict[int, pathlib.Path]:
  """Incremental mapping; models that are there already are taken.

  Args:
    num_photos: in the database.
    work: folder with database and images.
    options: see `Options`.

  Returns:
    Folder of each model by the number of its photos' rank, largest first.
  """
  sparse = work / 'sparse'
  if not (work / _DONE).exists():
    shutil.rmtree(sparse, ignore_errors=True)
    sparse.mkdir()
    with quiet(), progress.Progress(num_photos, description='mapping') as bar:
      _run_mapping(num_photos, work, options, bar)
    json_files.write_json_atomic(
        work / _DONE, {'models': len(os.listdir(sparse))}
    )
  folders = sorted(p for p in sparse.iterdir() if (p / 'images.bin').is_file())
  return {int(folder.name): folder for folder in folders}


def _run_mapping(num_photos, work, options: Options, bar) -> None:
  mapping = pycolmap.IncrementalPipelineOptions()
  # Ten, COLMAP's own, would refuse captures of a few photos.
  mapping.min_model_size = max(2, min(10, num_photos // 2))
  mapping.num_threads = options.threads
  # One seed for all that is drawn; threads may still add in another order.
  mapping.random_seed = _SEED
  mapping.mapper.random_seed = _SEED
  mapping.triangulation.random_seed = _SEED
  done = 0

  def advance():
    nonlocal done
    done += 1
    bar.update(min(done, num_photos))

  pycolmap.incremental_mapping(
      work / 'database.db',
      work / 'images',
      work / 'sparse',
      options=mapping,
      next_image_callback=advance,
  )


def read_models(folders: dict[int, pathlib.Path]):
  """Models by size, the one with most photos (then points) first.

  Args:
    folders: see `map_models`.

  Returns:
    List of (folder, pycolmap.Reconstruction).
  """
  with quiet():
    models = [(f, pycolmap.Reconstruction(str(f))) for f in folders.values()]
  size = lambda item: (item[1].num_reg_images(), item[1].num_points3D())
  return sorted(models, key=size, reverse=True)
