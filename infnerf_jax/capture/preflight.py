"""What `prepare` would do: photos, pairs, time, memory and disk."""

import collections
import os
import pathlib
import shutil
import tempfile
import time

import psutil

from infnerf_jax.capture import structure

# A feature in the database: descriptor 128, keypoint 24 bytes; SIFT gives
# some features two orientations.
_FEATURE_BYTES = 152 * 1.3
_MATCH_BYTES = 16
_MATCHES_A_PAIR = 300
# Features, their pyramid and the photo while it is searched, a pixel.
_PIXEL_BYTES = 80
_POINT_BYTES = 1500
# Mapping against matching all pairs of 60 photos, by size of the model.
_MAPPING_SECONDS = 0.5


def estimate(plan, out_dir, options, *, measure: bool = True) -> dict:
  """Estimates `prepare`; writes nothing but a temporary folder.

  Args:
    plan: prepare.Plan.
    out_dir: scene folder that would be made.
    options: prepare.Options.
    measure: find features in two photos and match them, for the time.

  Returns:
    Counts, bytes and seconds (None where not measured).
  """
  found = plan.folder.photos
  size = max(max(photo.size) for photo in found)
  shrink = min(1.0, options.sfm.max_size / size)
  pixels = max(p.size[0] * p.size[1] for p in found)
  workers = os.cpu_count() or 1
  if options.sfm.threads > 0:
    workers = options.sfm.threads
  features = options.sfm.max_features * len(found) * _FEATURE_BYTES
  matches = len(plan.pairs) * _MATCHES_A_PAIR * _MATCH_BYTES
  photo_bytes = sum(p.path.stat().st_size for p in found)
  result = {
      'photos': len(found),
      'photos_damaged': dict(plan.folder.damaged),
      'photos_with_gps': sum(p.metadata.gps is not None for p in found),
      'photos_with_focal': sum(p.metadata.focal is not None for p in found),
      'masks': sum(p.mask_path is not None for p in found),
      'lenses': len(structure.group_by_lens(found)),
      'sizes': [
          [*s, n]
          for s, n in collections.Counter(p.size for p in found).most_common(3)
      ],
      'matching': plan.matching,
      'matching_reason': plan.reason,
      'pairs': len(plan.pairs),
      'epsg': plan.places.epsg if plan.places else None,
      'memory_bytes': int(
          300e6
          + pixels * 3 * workers
          + pixels * shrink**2 * _PIXEL_BYTES * workers
          + len(found) * options.sfm.max_features * _POINT_BYTES / 4
      ),
      'memory_available_bytes': psutil.virtual_memory().available,
      'disk_bytes': int(features + matches + photo_bytes * options.copy_photos),
      'disk_free_bytes': shutil.disk_usage(_existing(out_dir)).free,
      'seconds': None,
  }
  if measure:
    result.update(_time(plan, options))
  result['fits'] = (
      result['memory_bytes'] <= result['memory_available_bytes']
      and result['disk_bytes'] <= result['disk_free_bytes']
  )
  return result


def _existing(path) -> pathlib.Path:
  """The path or its nearest parent that exists."""
  path = pathlib.Path(path).absolute()
  while not path.exists():
    path = path.parent
  return path


def _time(plan, options) -> dict:
  """Seconds of the stages, by two photos and their pair."""
  found = plan.folder.photos
  middle = len(found) // 2
  sample = found[middle - 1 : middle + 1]
  with tempfile.TemporaryDirectory() as folder:
    work = pathlib.Path(folder)
    structure.place_photos(sample, work)
    start = time.monotonic()
    structure.extract_features(sample, work, options.sfm)
    between = time.monotonic()
    structure.match(sample, [(0, 1)], work, options.sfm)
    end = time.monotonic()
  features = (between - start) / 2 * len(found)
  matching = (end - between) * len(plan.pairs)
  mapping = _MAPPING_SECONDS * len(found) * (1 + len(found) / 500)
  return {
      'feature_seconds': features,
      'matching_seconds': matching,
      'mapping_seconds': mapping,
      'seconds': features + matching + mapping,
  }


def describe(estimated: dict) -> str:
  """The estimate as lines for a terminal, a yes or no at its end."""
  num = estimated['photos']
  gb = lambda name: f'{estimated[name] / 1e9:.2f} GB'
  sizes = ', '.join(f'{n} of {w} x {h}' for w, h, n in estimated['sizes'])
  lines = [
      f'photos            {num} ({sizes}), {estimated["lenses"]} lens(es)',
      f'EXIF              focal length in {estimated["photos_with_focal"]}, GPS'
      f' in {estimated["photos_with_gps"]}',
      f'matching          {estimated["matching"]}:'
      f' {estimated["matching_reason"]}; {estimated["pairs"]} pairs',
  ]
  if estimated['masks']:
    lines.append(f'masks             {estimated["masks"]}')
  if estimated['epsg']:
    lines.append(f'coordinates       EPSG:{estimated["epsg"]}')
  else:
    lines.append('coordinates       none: without GPS the scale is unknown')
  lines += [
      f'memory            {gb("memory_bytes")}'
      f' (free: {gb("memory_available_bytes")})',
      f'disk              {gb("disk_bytes")} (free: {gb("disk_free_bytes")})',
  ]
  if estimated['seconds'] is not None:
    lines.append(
        f'time              about {estimated["seconds"] / 60:.1f} min: features'
        f' {estimated["feature_seconds"] / 60:.1f}, matching'
        f' {estimated["matching_seconds"] / 60:.1f}, mapping'
        f' {estimated["mapping_seconds"] / 60:.1f}'
    )
  for name, why in estimated['photos_damaged'].items():
    lines.append(f'damaged           {name}: {why}')
  answer = 'yes' if estimated['fits'] else 'no: too little memory or disk'
  return '\n'.join([*lines, f'fits here         {answer}'])
