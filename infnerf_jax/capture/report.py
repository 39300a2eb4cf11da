"""What came of structure from motion, in numbers and in words."""

import numpy as np

from infnerf_jax.capture import ground_control, structure

# Fewer features than this: blurred, dark or of one colour.
_FEW_FEATURES = 200
_ENOUGH_REGISTERED = 0.9


def make_report(plan, links, models, scene, placed) -> dict:
  """What `prepare_report.json` says.

  Args:
    plan: prepare.Plan.
    links: structure.Links.
    models: see `mapping.read_models`.
    scene: the scene.Scene that is written.
    placed: placing.Placed.

  Returns:
    Plain values.
  """
  found = plan.folder.photos
  model = placed.reconstruction
  depth, gsd = _scale(model)
  metric = placed.georeference is not None
  report = {
      'photos': len(found),
      'photos_registered': len(placed.rows),
      'registered_share': len(placed.rows) / len(found),
      'photos_not_registered': _left_out(plan, links, models, placed.rows),
      'photos_damaged': dict(plan.folder.damaged),
      'matching': plan.matching,
      'matching_reason': plan.reason,
      'pairs': len(plan.pairs),
      'models': [m.num_reg_images() for _, m in models],
      'points': model.num_points3D(),
      'observations_per_photo': model.compute_mean_observations_per_reg_image(),
      'mean_track_length': model.compute_mean_track_length(),
      'mean_reprojection_error_pixels': model.compute_mean_reprojection_error(),
      'lenses': [
          {
              'model': c.model.name,
              'size': [c.width, c.height],
              'params': c.params.tolist(),
          }
          for c in model.cameras.values()
      ],
      'median_distance_metres': depth if metric else None,
      'gsd_metres_per_pixel': gsd if metric else None,
      'coordinate_system': scene.frame['coordinate_system'],
      'offset': scene.frame['offset'],
      'gps': _gps(plan, placed),
      'ground_control': placed.control,
  }
  return report


def _left_out(plan, links: structure.Links, models, rows) -> dict[str, str]:
  """Why photos are not in the scene, by name."""
  elsewhere = {}
  for _, model in models[1:]:
    for image in model.images.values():
      if image.has_pose:
        elsewhere.setdefault(image.name, model.num_reg_images())
  registered, reasons = set(rows), {}
  for row, photo in enumerate(plan.folder.photos):
    if row in registered:
      continue
    features = int(links.num_features[row])
    partners = int(links.num_partners[row])
    name = structure.sfm_name(photo)
    if name in elsewhere:
      why = f'in another model, of {elsewhere[name]} photos, that does not join'
    elif features < _FEW_FEATURES:
      why = f'{features} features: blurred, dark or of one colour'
    elif not partners:
      why = f'{features} features, matches no other photo'
    else:
      why = f'matches {partners} photos, too few points of the model'
    reasons[photo.name] = why
  return reasons


def _scale(model):
  """(median distance of points, median size of a pixel there)."""
  distances, sizes = [], []
  for image in model.images.values():
    if not image.has_pose:
      continue
    ids = [p.point3D_id for p in image.points2D if p.has_point3D()]
    if not ids:
      continue
    points = np.array([model.points3D[i].xyz for i in ids])
    pose = image.cam_from_world().matrix()
    depth = float(np.median(points @ pose[2, :3] + pose[2, 3]))
    distances.append(depth)
    sizes.append(depth / model.cameras[image.camera_id].mean_focal_length())
  if not sizes:
    return None, None
  return float(np.median(distances)), float(np.median(sizes))


def _gps(plan, placed) -> dict | None:
  """Residuals of the photos' GPS, or why there are none."""
  if plan.places is None:
    return None
  names = [plan.folder.photos[row].name for row in placed.rows]
  result = {
      'photos': int(np.isfinite(plan.places.positions).all(axis=-1).sum()),
      'far_from_all_others': [
          plan.folder.photos[row].name for row in plan.places.strays
      ],
  }
  georeference = placed.georeference
  if georeference is None:
    return {**result, 'used': False}
  known = np.isfinite(georeference.residuals).all(axis=-1)
  if not known.any():
    return {**result, 'used': False}
  errors = georeference.residuals[known]
  across = np.linalg.norm(errors[:, :2], axis=-1)
  return {
      **result,
      'used': True,
      'up_from': georeference.tilt_from,
      'horizontal_median_metres': float(np.median(across)),
      'horizontal_max_metres': float(across.max()),
      'vertical_median_metres': float(np.median(np.abs(errors[:, 2]))),
      'vertical_max_metres': float(np.abs(errors[:, 2]).max()),
      'outliers': [
          name
          for name, k, good in zip(
              names, known, georeference.inliers, strict=True
          )
          if k and not good
      ],
      'residuals_metres': {
          name: row.round(3).tolist()
          for name, row, k in zip(
              names, georeference.residuals, known, strict=True
          )
          if k
      },
  }


def describe(report: dict) -> str:
  """The report as lines for a terminal."""
  num, total = report['photos_registered'], report['photos']
  lines = [
      f'photos            {num} of {total} registered'
      f' ({report["registered_share"]:.0%})',
  ]
  if len(report['models']) > 1:
    lines.append(
        f'models            {len(report["models"])}, of'
        f' {", ".join(map(str, report["models"]))} photos: took the largest'
    )
  lines += [
      f'points            {report["points"]}, seen'
      f' {report["mean_track_length"]:.1f} times each',
      'reprojection      '
      f'{report["mean_reprojection_error_pixels"]:.2f} pixels on average',
      f'frame             {report["coordinate_system"]}, offset'
      f' {", ".join(f"{v:.0f}" for v in report["offset"])}',
  ]
  if report['gsd_metres_per_pixel']:
    lines.append(
        f'ground sampling   {report["gsd_metres_per_pixel"] * 100:.2f} cm a'
        f' pixel, from {report["median_distance_metres"]:.1f} m'
    )
  if report.get('ground_control'):
    lines += ground_control.describe(report['ground_control'])
  if report['gps'] is not None or not report.get('ground_control'):
    lines += _describe_gps(report['gps'])
  for name, why in report['photos_not_registered'].items():
    lines.append(f'left out          {name}: {why}')
  for name, why in report['photos_damaged'].items():
    lines.append(f'damaged           {name}: {why}')
  if report['registered_share'] < _ENOUGH_REGISTERED:
    lines.append(
        'advice            few photos registered: more overlap, or'
        ' --matching=exhaustive, --max_size and --max_features larger'
    )
  return '\n'.join(lines)


def _describe_gps(gps: dict | None) -> list[str]:
  if gps is None:
    return ['GPS               none: the scale is unknown']
  if not gps['used']:
    return ['GPS               not used: fewer than 3 places, scale unknown']
  lines = [
      f'GPS               {gps["photos"]} photos; off by'
      f' {gps["horizontal_median_metres"]:.2f} m (at most'
      f' {gps["horizontal_max_metres"]:.2f} m) horizontally,'
      f' {gps["vertical_median_metres"]:.2f} m (at most'
      f' {gps["vertical_max_metres"]:.2f} m) in height'
  ]
  if gps['up_from'] == 'views':
    lines.append(
        'up                by the mean view: GPS heights are too uncertain'
    )
  for field, what in (
      ('outliers', 'GPS disagrees'),
      ('far_from_all_others', 'GPS far away'),
  ):
    if gps[field]:
      lines.append(f'{what:<17} {", ".join(gps[field])}')
  return lines
