"""Structure from motion with COLMAP, in stages that resume.

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

from infnerf_jax import errors, progress
from infnerf_jax.capture import photos as photos_lib
from infnerf_jax.geometry.colmap_library import pycolmap
from infnerf_jax.scene import decode

# Photos a call and pairs a call: what a kill loses, what the bar shows.
_FEATURE_BATCH = 8
_MATCH_BATCH = 64
# COLMAP's reader knows neither; PNG copies serve.
_COPIED = ('.webp',)
# One lens seen this often supports separate fx, fy and tangential terms.
_MIN_OPENCV = 30
SEED = 0
_MIN_PAIR_MATCHES = 15
MAPPINGS = ('incremental', 'global')
DEVICES = ('auto', 'cpu', 'gpu')


class Options(NamedTuple):
  """What structure from motion is told.

  Attributes:
    max_size: pixels; features are sought in photos made this small.
    max_features: per photo.
    threads: -1 is all.
    mapping: one of MAPPINGS.
    device: one of DEVICES; a GPU finds and matches features.
  """

  max_size: int = 2000
  max_features: int = 4096
  threads: int = -1
  mapping: str = 'incremental'
  device: str = 'auto'


def uses_gpu(options: Options) -> bool:
  """Whether features are found and matched on a GPU."""
  return options.device != 'cpu' and pycolmap.has_cuda


def check_options(options: Options) -> None:
  """Refuses what this machine or COLMAP does not have.

  Raises:
    InputError: a mapping or device that is none, a GPU that COLMAP was not
      built for.
  """
  for name, known in (('mapping', MAPPINGS), ('device', DEVICES)):
    value = getattr(options, name)
    if value not in known:
      raise errors.InputError(
          f'--{name}: got {value!r}, expected {", ".join(known)}'
      )
  if options.device == 'gpu' and not pycolmap.has_cuda:
    raise errors.InputError(
        '--device: got gpu, expected cpu or auto: this pycolmap was built'
        ' without CUDA (pycolmap-cuda12 has it)'
    )
  if options.max_size < 100 or options.max_features < 50:
    raise errors.InputError(
        f'--max_size, --max_features: got {options.max_size},'
        f' {options.max_features}, expected at least 100 and 50'
    )


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
  extraction.use_gpu = uses_gpu(options)
  extraction.sift.max_num_features = options.max_features
  pycolmap.extract_features(
      path,
      images,
      image_names=names,
      camera_mode=pycolmap.CameraMode.SINGLE,
      reader_options=reader,
      extraction_options=extraction,
      device=_device(options),
  )


def _device(options: Options) -> pycolmap.Device:
  return pycolmap.Device.cuda if uses_gpu(options) else pycolmap.Device.cpu


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
  options_m.use_gpu = uses_gpu(options)
  options_m.num_threads = options.threads
  geometry = pycolmap.TwoViewGeometryOptions()
  geometry.ransac.random_seed = SEED
  first = len(pairs) - len(todo)
  with progress.Progress(len(pairs), first=first, description='pairs') as bar:
    for start in range(0, len(todo), _MATCH_BATCH):
      batch = todo[start : start + _MATCH_BATCH]
      _match_batch(path, batch, options_m, geometry, _device(options))
      bar.update(first + start + len(batch))


def _match_batch(path, pairs, matching, geometry, device) -> None:
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
          device=device,
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
