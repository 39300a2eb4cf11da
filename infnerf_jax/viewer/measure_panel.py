"""The control panel's tools that measure where a client clicks."""

import threading

import numpy as np

from infnerf_jax import errors
from infnerf_jax.viewer import jobs, measure, pictures, views

_TOOLS = {
    'off': 'Clicks do nothing.',
    'point': 'Click: coordinates, level and ground sampling distance.',
    'distance': 'Click two points or more: length and difference in height.',
    'profile': 'Click two points or more: the heights below the line.',
    'area and volume': 'Click three corners or more.',
}
_MAX_POINTS = 200
_COLOR = (255, 60, 60)


class _Tool:
  """Points that were clicked, and what they measure."""

  def __init__(self, here):
    self.here, self.points = here, []
    self._lock = threading.Lock()
    self._handles, self._plot, self._listens = [], None, False
    gui = here.client.gui
    self.kind = gui.add_dropdown('Tool', tuple(_TOOLS))
    self.hint = gui.add_markdown(_TOOLS['off'])
    self.base = gui.add_dropdown(
        'Base of volumes', ('plane', 'lowest', 'height'),
        hint='Plane through the corners, the lowest corner, or a height.',
    )  # fmt: skip
    self.height = gui.add_number('Height of the base (m)', 0.0, step=0.1)
    self.undo = gui.add_button('Undo the last point')
    self.clear = gui.add_button('Clear')
    self.result = gui.add_markdown('')
    self.kind.on_update(self._choose)
    self.base.on_update(lambda _: self.update())
    self.height.on_update(lambda _: self.update())
    self.undo.on_click(self._undo)
    self.clear.on_click(lambda _: self._clear())

  def _choose(self, _) -> None:
    self.hint.content = _TOOLS[self.kind.value]
    scene = self.here.client.scene
    self._clear()
    # Where nothing listens to clicks they only move the camera.
    if self._listens:
      scene.remove_click_callback(self._clicked)
    self._listens = self.kind.value != 'off'
    if self._listens:
      scene.on_click()(self._clicked)

  def _undo(self, _) -> None:
    with self._lock:
      if self.points:
        self.points.pop()
    self.update()

  def _clear(self) -> None:
    with self._lock:
      self.points.clear()
    self.update()

  def _clicked(self, event) -> None:
    here, view = self.here, self.here.view()
    u, v = (float(x) for x in event.screen_pos)
    if view is None or not (0 <= u <= 1 and 0 <= v <= 1):
      return
    camera = views.to_camera(view, here.app.box, here.app.near)
    spot = jobs.spot(here.app.loop, camera, u, v, here.appearance)
    if spot.point is None:
      self.result.content = 'Nothing is there.'
      return
    with self._lock:
      if self.kind.value == 'point':
        self.points.clear()
      if len(self.points) < _MAX_POINTS:
        self.points.append(spot.point)
    if self.kind.value == 'point':
      self._draw()
      self.result.content = self._describe_spot(spot)
    else:
      self.update()

  def _describe_spot(self, spot) -> str:
    app = self.here.app
    return '  \n'.join(
        [
            f'**{app.coordinates(spot.point)}**',
            f'heights above {app.around.frame.vertical_datum}',
            f'GSD {measure.format_length(spot.gsd)} a pixel',
            f'octree level {spot.level:.1f}, which resolves'
            f' {measure.format_length(app.spec.root_gsd / 2**spot.level)}',
            f'{measure.format_length(spot.distance)} away',
        ]
    )

  def update(self) -> None:
    """Draws and measures anew."""
    self._draw()
    with self._lock:
      points = list(self.points)
    plot = None
    try:
      text, plot = self._measure(points)
    except errors.InputError as error:
      text = str(error)
    self.result.content = text
    if self._plot is not None:
      self._plot.remove()
      self._plot = None
    if plot is not None:
      self._plot = self.here.client.gui.add_image(plot, format='png')

  def _measure(self, points):
    """(Markdown, a plot or None) of the points so far."""
    kind, app = self.kind.value, self.here.app
    if kind == 'area and volume':
      return _describe_area(self.here, points, self.base.value,
                            float(self.height.value)), None  # fmt: skip
    if kind not in ('distance', 'profile') or len(points) < 2:
      return f'{len(points)} points' if points else '', None
    level = app.level.to_level(points)
    rise = float(level[-1, 2] - level[0, 2])
    lines = [
        f'**length {measure.format_length(measure.length(level))}**',
        f'in plan {measure.format_length(measure.plan_length(level))}',
        f'height difference {measure.format_length(rise)}',
    ]
    if kind == 'distance':
      return '  \n'.join(lines), None
    found = jobs.profile(
        app.loop, app.level, np.stack(points), self.here.appearance
    )
    known = found.heights[np.isfinite(found.heights)]
    shift = _height_shift(app, points[0])
    if known.size:
      lines.append(
          f'heights {known.min() + shift:.2f} to {known.max() + shift:.2f} m'
      )
    lines.append(f'climb {found.climb:.2f} m, fall {found.fall:.2f} m')
    plot = pictures.profile_plot(found.along, found.heights + shift)
    return '  \n'.join(lines), plot

  def _draw(self) -> None:
    """Points and lines in the browser's scene."""
    scene, place = self.here.client.scene, self.here.place
    with self._lock:
      points = list(self.points)
    while self._handles:
      self._handles.pop().remove()
    if not points:
      return
    units = place.from_world(np.stack(points)).astype(np.float32)
    self._handles.append(
        scene.add_point_cloud(
            '/measure/points', units, _COLOR, point_size=0.08,
            point_shape='circle',
        )
    )  # fmt: skip
    if len(units) < 2:
      return
    closed = self.kind.value == 'area and volume' and len(units) > 2
    line = np.concatenate([units, units[:1]]) if closed else units
    self._handles.append(
        scene.add_line_segments(
            '/measure/lines', np.stack([line[:-1], line[1:]], axis=1), _COLOR,
            thickness=3.0, thickness_units='screen',
        )
    )  # fmt: skip


def _height_shift(app, point) -> float:
  """Metres from level heights to the map's, about a point."""
  return float(
      app.around.frame.from_scene(point)[2] - app.level.to_level(point)[2]
  )


def _describe_area(here, points, base: str, height: float) -> str:
  """Area and volume of a polygon as Markdown."""
  if len(points) < 3:
    return f'{len(points)} of at least 3 corners'
  app = here.app
  level = app.level.to_level(points)
  if measure.crosses_itself(level):
    return 'The outline crosses itself.'
  shift = _height_shift(app, points[0])
  found = jobs.volume(
      app.loop, app.level, np.stack(points), here.appearance,
      base=base, base_height=height - shift,
  )  # fmt: skip
  outline = np.concatenate([level, level[:1]])
  own = measure.surface_area(level)
  return '  \n'.join(
      [
          f'**area {measure.format_area(found.area)}** in plan',
          f'{measure.format_area(own)} in its own plane',
          f'outline {measure.format_length(measure.length(outline))}',
          f'**{found.above:.2f} m³ above**, {found.below:.2f} m³ below the base'
          f' (mean height {found.base + shift:.2f} m)',
          f'surface known on {100 * found.known:.0f} %',
      ]
  )


def build(here) -> None:
  """Makes the panel of a session."""
  _Tool(here)
