"""The dashboard as a browser shows it: it signs in, shows every endpoint and what an operator must see, and no secret at all.

Debian's Chromium, headless, without playwright or selenium: the page is driven by its address alone, and the browser prints the DOM as
it stands after the page has had a few seconds. tests/run installs it.
"""

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest
from conftest import admin
from gateway import ADMIN_TOKEN, Gateway

MARKERS = {"prompt": "marker-prompt-kwzj", "upstream key": "sk-marker-upstream-kwzj", "admin token": ADMIN_TOKEN}
BROWSERS = ["chromium", "chromium-browser", "google-chrome"]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
]

CONFIG = """\
server: {{auth: required}}
store: {{path: state}}
chaos: allowed
providers:
  scripted: {{dialect: openai, base_url: "{base_url}", api_key: "${{UPSTREAM_KEY}}", allow_private: true}}
endpoints:
  steady: {{provider: scripted, model: ok, price: {{input: 1, output: 2}}}}
  shaky: {{provider: scripted, model: status-500, price: {{input: 1, output: 2}}}}
routes:
  chat: {{strategy: priority, endpoints: [shaky, steady]}}
"""


@pytest.fixture
def gateway(tmp_path, upstream):
    (tmp_path / "config.yaml").write_text(CONFIG.format(base_url=upstream.base_url))
    gateway = Gateway(tmp_path, "--config", "config.yaml", env={"UPSTREAM_KEY": MARKERS["upstream key"]})
    yield gateway
    assert gateway.stop() == 0


def dom(address, profile):
    """The page at the address as it stands after some seconds of its own time."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert browser, f"none of {', '.join(BROWSERS)} is installed; tests/run installs it"
    # Its time stands still while it waits for an answer, so a busy machine changes nothing.
    command = [browser, *FLAGS, f"--user-data-dir={profile}", "--virtual-time-budget=4000", "--dump-dom", address]
    run = subprocess.run(command, capture_output=True, text=True, timeout=90, env={**os.environ, "HOME": str(profile)})
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


def visible(page, element):
    """The text of the element with this id; fails if it is hidden."""
    head, _, rest = page.partition(f'id="{element}"')
    assert rest, f"no {element} in the page"
    tag = head[head.rindex("<") :] + rest[: rest.index(">")]
    assert "hidden" not in tag, f"{element} is hidden: {tag}"
    return rest[rest.index(">") + 1 :].split("</p>")[0]


def chat(gateway, secret, expected):
    body = {"model": "chat", "messages": [{"role": "user", "content": MARKERS["prompt"]}]}
    request = urllib.request.Request(
        f"{gateway.base}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {secret}", "content-type": "application/json"},
    )
    try:
        status = urllib.request.urlopen(request, timeout=20).status
    except urllib.error.HTTPError as refused:
        status = refused.code
    assert status == expected


@pytest.mark.timeout(180)
def test_the_dashboard_in_a_browser(gateway, tmp_path):
    secret = admin(gateway, "POST", "/admin/keys", {"name": "browser"})["secret"]
    for _ in range(6):
        chat(gateway, secret, 200)
    chat(gateway, secret + "x", 401)
    fault = {"kind": "status", "code": 503}
    admin(gateway, "POST", "/admin/chaos", {"endpoint": "steady", "share": 0.25, "for": "10m", "fault": fault})
    admin(gateway, "POST", "/admin/endpoints/shaky/trip", {"reason": "tripped for the browser"})

    page = dom(f"{gateway.base}/#token={ADMIN_TOKEN}", tmp_path / "profile")
    assert 'data-link="live"' in page, page[-3000:]
    for name in ["steady", "shaky"]:
        assert f'<div class="name">{name}</div>' in page, f"no row of {name}"
    assert "Forced open" in page and "tripped for the browser" in page
    banner = visible(page, "chaos")
    assert "Chaos runs here" in banner and "steady: status for 25.0 % of its calls" in banner, banner
    for what, marker in {**MARKERS, "virtual key": secret}.items():
        assert marker not in page, f"the page shows the {what}"

    # Over, it is gone; and without a token there is a page, but nothing in it.
    admin(gateway, "DELETE", "/admin/chaos")
    page = dom(f"{gateway.base}/#token={ADMIN_TOKEN}", tmp_path / "again")
    assert 'id="chaos" role="status" hidden' in page
    page = dom(f"{gateway.base}/#token=wrong", tmp_path / "wrong")
    assert "refuses this token" in page and '<div class="name">' not in page
