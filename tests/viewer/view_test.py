"""The whole viewer over sockets: pictures, newer states, who is kept out."""

import base64
import functools
import io
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import jax
import numpy as np
import pytest
from PIL import Image

pytest.importorskip('viser', reason='needs viser')

from websockets import exceptions as ws_errors  # noqa: E402
from websockets.sync import client as ws  # noqa: E402

import infnerf_jax  # noqa: E402
from infnerf_jax import errors, view  # noqa: E402
from infnerf_jax.geometry import cameras as cameras_lib  # noqa: E402
from infnerf_jax.products import store_export  # noqa: E402
from infnerf_jax.viewer import guard, jobs, schedule, views  # noqa: E402
from tests.viewer import socket_client, tiny_run  # noqa: E402

_FAR = ((30.0, 5.0, 12.0), (0.0, 0.0, 0.0))
_NEAR = ((4.0, -9.0, 6.0), (0.0, 0.0, 0.0))


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tiny_run.make_run(tmp_path_factory.mktemp('runs') / 'run')


@pytest.fixture(scope='module')
def viewer(workdir):
  with view.open_viewer(workdir, port=0, check_every=0.2) as viewer:
    yield viewer


def _until(accept, seconds=20.0):
  end = time.monotonic() + seconds
  while not accept():
    assert time.monotonic() < end
    time.sleep(0.02)


def _session(viewer, client):
  (here,) = (s for s in viewer.sessions() if s.name == client.session)
  return here


def _is_seen_from(viewer, client, position) -> bool:
  shown = _session(viewer, client).shown
  return np.allclose(shown.view.position, viewer.place.to_world(position))


def test_a_picture_arrives_and_changes_with_the_camera(viewer):
  with socket_client.Client(viewer.port) as client:
    start = time.monotonic()
    client.look(*_FAR)
    client.picture()
    assert time.monotonic() - start < 2
    client.look(*_NEAR)
    sharp = client.picture(width=96)
    assert sharp.shape == (72, 96, 3)
    client.look(*_FAR)
    other = client.picture(width=96)
    assert np.abs(sharp - other).mean() > 3


def test_the_picture_is_the_scene_from_the_browsers_camera(viewer, workdir):
  """The sharp picture is what `render` gives for the same camera."""
  position = viewer.place.to_world(_NEAR[0])
  with socket_client.Client(viewer.port, size=(64, 48)) as client:
    client.look(*_FAR)
    client.picture()  # connected: it is sent to the first view
    client.look(*_NEAR)
    here = _session(viewer, client)
    _until(lambda: here.shown.final and _is_seen_from(viewer, client, _NEAR[0]))
    shown, found = here.shown, client.last_picture()
  pose = cameras_lib.look_at(position, viewer.place.to_world(_NEAR[1]))
  camera = cameras_lib.make_camera(
      focal=24 / np.tan(0.45), width=64, height=48, cam_to_world=pose
  )
  np.testing.assert_allclose(shown.camera.cam_to_world, pose, atol=1e-9)
  expected = infnerf_jax.load(workdir).render(camera).rgb
  # Proposals are shared, and JPEG takes its part.
  assert np.abs(found - 255 * expected).mean() < 6


@pytest.fixture
def compiled(caplog):
  """Names of programs that were compiled so far."""
  jax.config.update('jax_log_compiles', True)
  yield lambda: [m for m in caplog.messages if m.startswith('Compiling')]
  jax.config.update('jax_log_compiles', False)


@pytest.mark.parametrize(
    'width, height, speed', [(900, 600, 1e4), (900, 600, 2e5), (317, 401, 4e4)]
)
def test_no_canvas_and_no_speed_compiles_another_program(
    viewer, compiled, width, height, speed
):
  camera = views.to_camera(
      viewer.first_view(width, height), viewer.box, viewer.near
  )
  stages = schedule.stages(
      width, height, rays_per_second=speed, max_pixels=1_500_000,
      limits=viewer.loop.call(lambda r: r.limits).result(),
  )  # fmt: skip
  for stage in (stages[0], stages[-1]):
    viewer.loop.call(
        lambda r, s: r.band(camera, s, s.bands[0], viewer.appearance), stage
    ).result()
  jobs.picture(viewer.loop, camera, viewer.appearance, max_width=160)
  assert not compiled()


def test_the_pointers_socket(viewer):
  with socket_client.Client(viewer.port) as client:
    client.look(*_FAR)
    client.picture(width=96)
    mine = {'session': client.session}
    with ws.connect(f'ws://127.0.0.1:{viewer.port}/pointer') as pointer:

      def answer(place):
        pointer.send(json.dumps(place))
        return json.loads(pointer.recv(timeout=10))

      bar = answer(mine)['bar']
      assert 0 < bar['share'] <= 0.2 and bar['text']
      text = answer({**mine, 'u': 0.5, 'v': 0.5})['text']
      assert 'GSD' in text and 'E 512' in text and 'N 5411' in text
      assert 'text' not in answer({**mine, 'u': 7, 'v': None})
      for stranger in ({}, {'session': 'x'}, {'session': [1]}):
        assert answer({**stranger, 'u': 0.5, 'v': 0.5}) == {}
      pointer.send('[1')
      with pytest.raises(ws_errors.ConnectionClosed):
        pointer.recv(timeout=10)


def test_each_pages_pointer_reads_its_own_picture(viewer):
  middle = {'u': 0.5, 'v': 0.5}
  with (
      socket_client.Client(viewer.port) as far,
      socket_client.Client(viewer.port) as near,
      ws.connect(f'ws://127.0.0.1:{viewer.port}/pointer') as pointer,
  ):
    for client, camera in ((far, _FAR), (near, _NEAR)):
      client.look(*camera)
      client.picture(width=96)  # sent to the first view
      client.look(*camera)
      _until(functools.partial(_is_seen_from, viewer, client, camera[0]))
    sizes = []
    for client in (far, near):
      pointer.send(json.dumps({'session': client.session, **middle}))
      answer = json.loads(pointer.recv(timeout=10))
      sizes.append(answer['text'].splitlines()[0])
    assert sizes[0] != sizes[1]


def test_ten_clients_one_of_which_vanishes(viewer):
  clients = [socket_client.Client(viewer.port) for _ in range(10)]
  for i, client in enumerate(clients):
    client.look((25.0, 2.0 * i, 10.0), (0, 0, 0))
  gone = clients.pop()
  gone.socket.socket.close()  # no goodbye
  for client in clients:
    assert client.picture(width=96).shape == (72, 96, 3)
  for client in clients:
    client.socket.close()
  _until(lambda: not viewer.sessions())


@pytest.mark.parametrize(
    'data', [b'\x00' * (guard.MAX_MESSAGE_BYTES + 1), b'\xc1nonsense', 'text']
)
def test_odd_and_oversized_messages_end_one_connection_only(viewer, data):
  with socket_client.Client(viewer.port) as other:
    other.look(*_FAR)
    other.picture()
    with socket_client.Client(viewer.port) as client:
      client.look(*_FAR)
      with pytest.raises((ws_errors.ConnectionClosed, OSError)):
        client.socket.send(data)
        while True:
          client.socket.recv(timeout=10)
    other.look(*_NEAR)
    other.picture()


def test_cameras_of_nonsense_are_left_alone(viewer):
  with socket_client.Client(viewer.port) as client:
    client.look(*_FAR)
    client.picture(width=96)
    for changes in ({'fov': float('nan')}, {'position': [0, 0, 1e300]},
                    {'wxyz': [0, 0, 0, 0]}, {'image_width': 0},
                    {'image_height': -3}):  # fmt: skip
      fields = {
          'wxyz': [1.0, 0, 0, 0], 'position': [0.0, 0, 9], 'fov': 0.9,
          'near': 0.01, 'far': 1000.0, 'image_height': 72, 'image_width': 96,
          'look_at': [0.0, 0, 0], 'up_direction': [0.0, 0, 1], **changes,
      }  # fmt: skip
      client.send('ViewerCameraMessage', **fields)
    client.look(*_NEAR)
    assert client.picture(width=96).shape == (72, 96, 3)


def test_nobody_opens_a_tunnel(viewer):
  from viser import _messages

  server = viewer.server._websock_server
  assert _messages.ShareUrlRequest not in server._incoming_handlers


def _get(port, path='/', **headers):
  request = urllib.request.Request(
      f'http://127.0.0.1:{port}{path}', headers=headers
  )
  with urllib.request.urlopen(request, timeout=10) as response:
    return response.headers, response.read()


def test_the_page_and_who_may_see_it(viewer, workdir):
  _, page = _get(viewer.port)
  assert b'<html' in page and b'infnerf-scale' in page
  data = re.search(rb'infnerf-first".*?base64,([^"]*)"', page)[1]
  first = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
  assert first.shape == (90, 160, 3)
  camera = views.to_camera(viewer.first_view(160, 90), viewer.box, viewer.near)
  image = infnerf_jax.load(workdir, step=40).render(camera)
  # Proposals are shared, and JPEG takes its part.
  assert np.abs(first - 255 * image.rgb).mean() < 6
  for headers in ({'Host': 'evil.example'}, {'Origin': 'http://evil.example'}):
    with pytest.raises(urllib.error.HTTPError) as refused:
      _get(viewer.port, **headers)
    assert refused.value.code == 403
  with pytest.raises(ws_errors.InvalidStatus) as refused:
    ws.connect(f'ws://127.0.0.1:{viewer.port}/', origin='http://evil.example')
  assert refused.value.response.status_code == 403


def test_only_this_machine_is_listened_to(viewer):
  found = viewer.server._websock_server
  assert found._host == '127.0.0.1'
  lines = pathlib.Path('/proc/net/tcp').read_text().splitlines()[1:]
  port = f'{viewer.port:04X}'
  local = [line.split()[1] for line in lines if line.split()[3] == '0A']
  mine = [address for address in local if address.endswith(':' + port)]
  assert mine == [f'0100007F:{port}']


def test_a_newer_checkpoint_is_shown(viewer, workdir):
  with socket_client.Client(viewer.port) as client:
    client.look(*_FAR)
    client.picture()
    client.look(*_NEAR)
    before = client.last_picture()
    tiny_run.save(workdir, 50, seed=3)
    _until(lambda: viewer.num_steps == 50)
    after = client.last_picture()
    assert np.abs(after - before).mean() > 3


def test_a_token_lets_in_once_it_was_shown(workdir):
  token = 'long-enough-1'
  with view.open_viewer(workdir, port=0, token=token) as viewer:
    with pytest.raises(urllib.error.HTTPError) as refused:
      _get(viewer.port)
    assert refused.value.code == 401
    with pytest.raises(ws_errors.InvalidStatus):
      socket_client.Client(viewer.port)
    headers, page = _get(viewer.port, f'/?token={token}')
    assert b'<html' in page
    cookie = headers['Set-Cookie'].partition(';')[0]
    with socket_client.Client(
        viewer.port, additional_headers={'Cookie': cookie}
    ) as client:
      client.look(*_FAR)
      assert client.picture().shape[2] == 3


def test_a_store_under_a_cap(workdir, tmp_path, compiled):
  store_export.export_store(
      infnerf_jax.load(workdir), tmp_path / 'store', max_views=0
  )
  with view.open_viewer(
      tmp_path / 'store', port=0, max_memory_gb=0.6
  ) as viewer:
    before = len(compiled())
    with socket_client.Client(viewer.port) as client:
      client.look(*_FAR)
      far = client.picture(width=96)
      client.look(*_NEAR)
      assert np.abs(client.picture(width=96) - far).mean() > 3
    assert compiled()[before:] == []
    memory = viewer.loop.call(
        lambda r: (r.loaded.memory_report(), r.picture_bytes)
    ).result()
  report, pictures = memory
  assert report['cap'] + pictures <= 0.6e9 * 1.001
  held = report['device']['total'] + report['host']['total']
  assert held + pictures <= 0.6e9 * 1.001


def test_caps_that_do_not_hold_the_scene(workdir, tmp_path):
  with pytest.raises(errors.InputError, match='--max_memory_mb: got 0.01'):
    view.open_viewer(workdir, port=0, max_memory_gb=1e-5)


def test_addresses_that_cannot_be_had(workdir):
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(errors.InputError, match=f'127.0.0.1:{port}: .*in use'):
      view.open_viewer(workdir, port=port)
  with pytest.raises(errors.InputError, match='--host, --port: got'):
    view.open_viewer(workdir, host='203.0.113.7', token='long-enough-1')
  with pytest.raises(errors.InputError, match='without --token'):
    view.open_viewer(workdir, host='0.0.0.0')


def test_bad_input_is_one_line():
  done = subprocess.run(
      [sys.executable, '-m', 'experiments.view', '--workdir=/nowhere/at/all',
       '--port=0'],
      capture_output=True, text=True, timeout=120,
      env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )  # fmt: skip
  assert done.returncode == 2
  assert 'got no config.json' in done.stderr
  assert len(done.stderr.splitlines()) == 1
