"""A browser without a screen: viser's protocol over a plain socket."""

import io
import re
import time

import msgspec.msgpack
import numpy as np
import viser
import zstandard
from PIL import Image
from websockets.sync import client as ws

from infnerf_jax.viewer import views

_WAIT = 30.0


def decode(data: bytes):
  """Messages of one frame, their binary parts filled in."""
  size = int.from_bytes(data[8:16], 'little')
  body = zstandard.ZstdDecompressor().decompress(data[16 : 16 + size])
  content = msgspec.msgpack.decode(body)
  buffers, offset = [], 16 + size
  for length in content.get('binaryBufferLengths', ()):
    offset += -offset % 8
    buffers.append(data[offset : offset + length])
    offset += length

  def fill(value):
    if isinstance(value, dict):
      if '__binary_index' in value:
        return buffers[value['__binary_index']]
      return {k: fill(v) for k, v in value.items()}
    if isinstance(value, list):
      return [fill(v) for v in value]
    return value

  return [fill(m) for m in content['messages']]


class Client:
  """One connection; a context manager."""

  def __init__(self, port: int, *, size=(96, 72), **options):
    self.size = size
    self.socket = ws.connect(
        f'ws://127.0.0.1:{port}/',
        subprotocols=[f'viser-v{viser.__version__}'],
        max_size=None,
        **options,
    )
    self.messages = []

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.socket.close()

  def look(self, position, target) -> None:
    """Sends a camera, in the browser's units."""
    position, target = np.asarray(position, float), np.asarray(target, float)
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward], axis=-1)
    self.send(
        'ViewerCameraMessage',
        wxyz=views.rotation_to_quaternion(rotation).tolist(),
        position=position.tolist(),
        fov=0.9,
        near=0.01,
        far=1000.0,
        image_height=self.size[1],
        image_width=self.size[0],
        look_at=target.tolist(),
        up_direction=[0.0, 0.0, 1.0],
    )

  @property
  def session(self) -> str:
    """What the page is called, once its panel is there."""
    marks = (
        re.search(r'data-name="([^"]+)"', m['props']['content'])
        for m in self.messages
        if m['type'] == 'GuiHtmlMessage'
    )
    return next(filter(None, marks))[1]

  def send(self, kind: str, **fields) -> None:
    self.socket.send(msgspec.msgpack.encode({'type': kind, **fields}))

  def wait_for(self, accept, seconds: float = _WAIT):
    """The first message to come that is accepted."""
    end = time.monotonic() + seconds
    while True:
      data = self.socket.recv(timeout=max(end - time.monotonic(), 0.001))
      found = None
      for message in decode(data):
        self.messages.append(message)
        if found is None and accept(message):
          found = message
      if found is not None:
        return found

  def picture(self, *, width: int = 0, seconds: float = _WAIT) -> np.ndarray:
    """The next picture [H, W, 3], of at least a width."""
    while True:
      message = self.wait_for(
          # The server begins with none.
          lambda m: m['type'] == 'BackgroundImageMessage' and m['rgb_data'],
          seconds,
      )
      image = Image.open(io.BytesIO(message['rgb_data']))
      if image.width >= width:
        return np.asarray(image.convert('RGB')).astype(int)

  def last_picture(self, quiet: float = 1.0) -> np.ndarray:
    """The last picture once none has come for a while, seconds."""
    last = self.picture()
    while True:
      try:
        last = self.picture(seconds=quiet)
      except TimeoutError:
        return last
