"""The commands that README.md tells a newcomer to paste.

A fenced block whose info string is `sh run` is run here, line by line, against the demo; its address stands for the demo's.
"""

import os
import re
import subprocess

import pytest
from gateway import ADMIN_TOKEN, ROOT

DEMO_ADDRESS = "http://127.0.0.1:8080"


def commands():
    file = ROOT / "README.md"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    blocks = re.findall(r"^```sh run\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def test_there_are_commands_to_run():
    assert any(command.startswith("curl ") for command in commands()), "README.md has no curl line in a block ```sh run"


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme(demo, command):
    command = command.replace(DEMO_ADDRESS, demo.base).replace(DEMO_ADDRESS.removeprefix("http://"), demo.base.removeprefix("http://"))
    fail_with_body = command.replace("curl ", "curl --fail-with-body --max-time 20 ", 1)
    env = {**os.environ, "BREAKWATER_ADMIN_TOKEN": ADMIN_TOKEN}
    done = subprocess.run(["bash", "-c", fail_with_body], env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip(), f"{command} printed nothing"
