"""Who is let in."""

import pytest

from infnerf_jax import errors
from infnerf_jax.viewer import guard

_TOKEN = 'Correct-horse_7'


def _check(token='', path='/', **headers):
  headers = {name.replace('_', '-'): value for name, value in headers.items()}
  return guard.check(guard.Guard(token, 8080), path, headers)


@pytest.mark.parametrize(
    'host', ['127.0.0.1:8080', 'localhost:9000', '[::1]:8080', 'a.localhost']
)
def test_this_machine_needs_no_token(host):
  # Another port: a tunnel to here.
  assert _check(Host=host).status == 200
  assert _check(Host=host, Origin=f'http://{host}').status == 200


@pytest.mark.parametrize(
    'host', ['example.org', '127.0.0.1.example.org:8080', '10.0.0.1', '', '[']
)
def test_names_that_an_attacker_may_resolve_to_here(host):
  assert _check(Host=host).status == 403


@pytest.mark.parametrize(
    'origin',
    ['http://example.org', 'null', 'http://127.0.0.1:9999', 'file://', '',
     'http://[bad'],
)  # fmt: skip
def test_other_pages_may_not_open_a_socket(origin):
  assert _check(Host='127.0.0.1:8080', Origin=origin).status == 403
  good = f'/?token={_TOKEN}'
  assert _check(_TOKEN, good, Host='a:8080', Origin=origin).status == 403


def test_a_token_by_address_then_by_cookie():
  assert _check(_TOKEN, Host='10.0.0.1:8080').status == 401
  assert _check(_TOKEN, '/?token=wrong', Host='10.0.0.1:8080').status == 401
  assert _check(_TOKEN, '/?token=ä', Host='10.0.0.1:8080').status == 401
  first = _check(_TOKEN, f'/?token={_TOKEN}', Host='10.0.0.1:8080')
  assert first.status == 200
  assert 'HttpOnly' in first.cookie and 'SameSite=Strict' in first.cookie
  cookie = first.cookie.partition(';')[0]
  again = _check(_TOKEN, Host='10.0.0.1:8080', Cookie=f'a=b; {cookie}')
  assert again.status == 200 and again.cookie is None
  other = cookie.replace('8080', '8081')
  assert _check(_TOKEN, Host='10.0.0.1:8080', Cookie=other).status == 401


def test_a_token_counts_on_this_machine_too():
  assert _check(_TOKEN, Host='127.0.0.1:8080').status == 401


@pytest.mark.parametrize('host', ['0.0.0.0', '::', '192.168.1.7', 'myhost', ''])
def test_other_hosts_need_a_token(host):
  with pytest.raises(errors.InputError, match='--host: got .* without --token'):
    guard.check_options(host, '')
  guard.check_options(host, _TOKEN)


@pytest.mark.parametrize(
    'token', ['short', 'with space!', 'a;b=cdefgh', 'ääääääää']
)
def test_weak_or_odd_tokens_are_refused(token):
  with pytest.raises(errors.InputError, match='--token: got'):
    guard.check_options('127.0.0.1', token)


@pytest.mark.parametrize('host', ['127.0.0.1', 'localhost', '::1', '127.8.0.1'])
def test_loopback_needs_none(host):
  guard.check_options(host, '')
