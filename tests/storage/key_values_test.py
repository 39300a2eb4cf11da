"""Reading over http that stumbles: bounded retries, nothing wrong believed."""

import time

import numpy as np
import pytest

from infnerf_jax import errors
from infnerf_jax.evaluation.complexity import stumbling_server
from infnerf_jax.storage import key_values, node_store
from tests import tiny_store

QUICK = key_values.ReadPolicy(
    attempts=4, first_delay=0.01, max_delay=0.05, timeout=1.0
)


def test_a_store_over_http(tmp_path):
  model, _, _ = tiny_store.make_store(tmp_path)
  with stumbling_server.serve(tmp_path) as (address, _):
    store = node_store.open_store(address, QUICK)
    row = store.read_row(1)
    np.testing.assert_array_equal(row['table'], model.nodes['table'][0])
    assert not node_store.verify(store)
    with pytest.raises(errors.InputError, match='found no store.json'):
      node_store.open_store(address + 'elsewhere/', QUICK)


@pytest.mark.parametrize('trouble', ['error', 'hang', 'short'])
def test_what_passes_is_asked_for_again(tmp_path, trouble):
  """The first two answers to everything fail."""
  tiny_store.make_store(tmp_path)
  fails = lambda path, count: trouble if count <= 2 else None
  with stumbling_server.serve(tmp_path, fails) as (address, server):
    store = node_store.open_store(address, QUICK._replace(timeout=0.3))
    assert store.read_row(1)['table'].shape == (
        store.header.group().fields[0].shape
    )
    assert max(server.counts.values()) <= 8


def test_what_stays_is_given_up_in_time(tmp_path):
  tiny_store.make_store(tmp_path)
  fails = lambda path, count: 'hang' if path.startswith('nodes') else None
  with stumbling_server.serve(tmp_path, fails) as (address, server):
    store = node_store.open_store(address, QUICK._replace(timeout=0.2))
    start = time.perf_counter()
    with pytest.raises(key_values.UnreachableError, match='no answer within'):
      store.read_row(1)
    # Four reads of 0.2 s and three pauses.
    assert time.perf_counter() - start < 10
    assert sum(n for p, n in server.counts.items() if 'nodes' in p) <= 8


def test_flipped_bits_over_http_are_found(tmp_path):
  tiny_store.make_store(tmp_path)
  fails = lambda path, count: 'wrong' if path.startswith('nodes') else None
  with stumbling_server.serve(tmp_path, fails) as (address, _):
    damage = node_store.verify(node_store.open_store(address, QUICK))
    assert len(damage) == 17
    assert all('crc32c' in d['reason'] for d in damage)


def test_nobody_there_is_one_line():
  policy = QUICK._replace(attempts=2)
  with pytest.raises(errors.InputError, match='expected a node store') as found:
    node_store.open_store('http://127.0.0.1:9/', policy)
  assert '\n' not in str(found.value)


@pytest.mark.parametrize(
    'location, driver, bucket, path',
    [
        ('s3://some-bucket/stores/city', 's3', 'some-bucket', 'stores/city/'),
        ('gs://some-bucket/city/', 'gcs', 'some-bucket', 'city/'),
    ],
)
def test_buckets_are_drivers_of_tensorstore(location, driver, bucket, path):
  """Parsed and opened without a network; nothing is read."""
  values = key_values.TensorStoreKeyValues(location)
  assert values.location == location
  spec = values.spec().to_json()
  assert spec['driver'] == driver and spec['bucket'] == bucket
  assert spec['path'] == path


@pytest.mark.parametrize('location', ['s3://', 'gs:///x', 'ftp://host/x'])
def test_addresses_that_are_none_are_one_line(location):
  with pytest.raises(errors.InputError, match='expected a folder or') as found:
    key_values.TensorStoreKeyValues(location)
  assert '\n' not in str(found.value) and location in str(found.value)
