"""Programs that people have, as they are installed and at their defaults, against a real language model.

Each is a file of tests/served/clients/ that asks and asserts; the Python ones run in an environment of their own, with
the versions of its requirements.txt, as some of them ask for others than the service does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from bundle.read import Bundle
from tests.stand_ins.live_server import LiveServer, free_port
from tests.stand_ins.made_once import MadeOnce

pytestmark = pytest.mark.slow  # other programs, from package indexes

CLIENTS = Path(__file__).parents[1] / "clients"
OF_PYTHON = sorted(
    file.name for file in CLIENTS.glob("*.py") if file.name != "vllm_bench.py"
)  # which is in the service's own environment
SECONDS = 600


@pytest.fixture(scope="module")
def python(made_once: MadeOnce) -> Path:
    def install(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        pip = [str(folder / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*pip, "-r", str(CLIENTS / "requirements.txt")], capture_output=True, text=True, check=False
        )
        if done.returncode:
            (folder / "failed").write_text(done.stderr[-400:])

    folder = made_once("clients", install)
    if (folder / "failed").exists():
        pytest.skip(f"NOT TESTED: the clients can't be installed here: {(folder / 'failed').read_text()}")
    return folder / "venv" / "bin" / "python"


def succeeded(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("client", OF_PYTHON)
def test_a_python_client(client: str, python: Path, real_server: LiveServer, real_bundle: Bundle) -> None:
    succeeded(python, CLIENTS / client, real_server.url, real_bundle.manifest.base.name)


def test_litellms_proxy_before_the_service(python: Path, real_server: LiveServer, tmp_path: Path) -> None:
    port, key = free_port(), "sk-the-proxys-own"
    command = [str(python.parent / "litellm"), "--model", "openai/auto", "--port", str(port)]
    command += ["--api_base", f"{real_server.url}/v1"]
    environment = os.environ | {"OPENAI_API_KEY": "none", "LITELLM_MASTER_KEY": key}
    environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    log = tmp_path / "proxy.log"
    with log.open("w") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as proxy:
        try:
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", timeout=120, headers={"authorization": f"Bearer {key}"}
            ) as http:
                deadline = time.monotonic() + SECONDS
                while True:
                    assert proxy.poll() is None, log.read_text()[-3000:]
                    assert time.monotonic() < deadline, log.read_text()[-3000:]
                    try:
                        if http.get("/health/liveliness").status_code == 200:
                            break
                    except httpx.TransportError:
                        time.sleep(0.5)
                body = {
                    "model": "openai/auto",
                    "max_tokens": 16,
                    "messages": [{"role": "user", "content": "What is the capital of France?"}],
                }
                whole = http.post("/v1/chat/completions", json=body)
                assert whole.status_code == 200, whole.text
                assert whole.json()["usage"]["completion_tokens"] > 0
                with http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as streamed:
                    lines = [line for line in streamed.iter_lines() if line]
                assert lines[-1] == "data: [DONE]"
                assert all("error" not in json.loads(line[6:]) for line in lines[:-1])
        finally:
            proxy.terminate()


def test_vllms_own_load_generator(real_server: LiveServer, real_bundle: Bundle) -> None:
    name = real_bundle.manifest.base
    succeeded(sys.executable, CLIENTS / "vllm_bench.py", real_server.url, name.name, name.id)


def test_vercels_ai_sdk(real_server: LiveServer, real_bundle: Bundle, tmp_path: Path) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("NOT TESTED: no node and npm here (apt-get install nodejs npm)")
    for name in ("package.json", "package-lock.json", "ai_sdk.mjs"):
        shutil.copy(CLIENTS / name, tmp_path)
    installed = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund", "--prefer-offline"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode != 0:
        pytest.skip(f"NOT TESTED: npm ci failed, the registry may be out of reach: {installed.stderr[-300:]}")
    succeeded("node", "ai_sdk.mjs", real_server.url, real_bundle.manifest.base.name, cwd=tmp_path)


def test_javas_http_client(real_server: LiveServer) -> None:
    if shutil.which("java") is None:
        pytest.skip("NOT TESTED: no java here (apt-get install default-jdk-headless)")
    succeeded("java", CLIENTS / "Client.java", real_server.url)


def test_curl_that_offers_http2(real_server: LiveServer) -> None:
    if shutil.which("curl") is None:
        pytest.skip("NOT TESTED: no curl here")
    body = '{"model": "auto", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}'
    url = f"{real_server.url}/v1/chat/completions"
    said = succeeded("curl", "-sS", "--http2", "--json", body, url)
    assert json.loads(said)["object"] == "chat.completion"
