"""Fixtures: the demo as a newcomer starts it, and a gateway before an upstream that a test scripts."""

import json
import urllib.request

import openai
import pytest
from gateway import ADMIN_TOKEN, Gateway
from upstream import Upstream

STATUSES = [400, 401, 404, 422, 429, 500]

CONFIG = """\
server:
  auth: required
store:
  path: state
providers:
  scripted: {{dialect: openai, base_url: "{base_url}", api_key: upstream-key, allow_private: true}}
endpoints:
{endpoints}
routes:
  chat: {{strategy: priority, endpoints: [ok]}}
  other: {{strategy: priority, endpoints: [ok]}}
  fallback: {{strategy: priority, endpoints: [status-500, ok]}}
"""

ENDPOINT = """\
  {name}:
    provider: scripted
    model: {name}
    price: {{input: 1, output: 2}}
    limits: {{max_wait: 0s}}
"""


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    gateway = Gateway(tmp_path_factory.mktemp("demo"), "--demo")
    yield gateway
    assert gateway.stop() == 0


@pytest.fixture(scope="session")
def demo_client(demo):
    return openai.OpenAI(base_url=f"{demo.base}/v1", api_key="unused", max_retries=0)


@pytest.fixture
def upstream():
    server = Upstream()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def gateway(tmp_path, upstream):
    names = ["ok", "tools", "cut", *(f"status-{status}" for status in STATUSES)]
    endpoints = "".join(ENDPOINT.format(name=name) for name in names)
    (tmp_path / "config.yaml").write_text(CONFIG.format(base_url=upstream.base_url, endpoints=endpoints))
    gateway = Gateway(tmp_path, "--config", "config.yaml")
    yield gateway
    assert gateway.stop() == 0


def admin(gateway, method, path, body=None):
    """A call of the admin API; gives the answer's JSON."""
    request = urllib.request.Request(
        gateway.base + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {ADMIN_TOKEN}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@pytest.fixture
def key(gateway):
    return admin(gateway, "POST", "/admin/keys", {"name": "sdk"})["secret"]


@pytest.fixture
def client(gateway, key):
    with openai.OpenAI(base_url=f"{gateway.base}/v1", api_key=key, max_retries=0) as client:
        yield client
