"""Build the real Dockerfile without a Docker engine, run it locked down, and get a routed answer from it.

    python deploy/image_trial runs/demo/bundle --base-model demo/base

For machines without a container registry or engine: as root, with Debian's `buildah` and `debootstrap`. The
base image is a stand-in, Debian bookworm with Debian's own Python 3.11. What `docker run --read-only --tmpfs /tmp
--tmpfs /cache --cap-drop ALL --security-opt no-new-privileges --network none` gives a container is made of
namespaces here: process 1 is the service, as the image's user, on a root it can't write. Prints one line per check
and fails with the first that does not hold. Takes ten minutes and some 10 GB below --work, all of it removed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from confined import Container, Running
from image_build import Buildah
from steps import FailedError, say

_READY_SECONDS = 300
_NEEDS = ("buildah", "debootstrap", "unshare", "nsenter", "ip")

# A client, to be run inside the container, whose network is its own: asks PATH with BODY, prints the answer.
_ASK = """
import json, sys, urllib.request
path, body = sys.argv[1:]
request = urllib.request.Request("http://127.0.0.1:8000" + path, body.encode() or None,
                                 {"content-type": "application/json"})
with urllib.request.urlopen(request, timeout=120) as answer:
    print(json.dumps({"headers": {k.lower(): v for k, v in answer.headers.items()},
                      "body": json.loads(answer.read())}))
"""


def main() -> int:
    """Build, run, ask, stop; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--base-model", type=Path, required=True, help="folder of the bundle's base model")
    parser.add_argument(
        "--work", type=Path, default=Path("/var/tmp"), help="where the images are kept meanwhile"
    )
    asked = parser.parse_args()
    missing = [tool for tool in _NEEDS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        print(
            f"Run it as root, with {', '.join(_NEEDS)}; missing: {', '.join(missing) or 'root'}",
            file=sys.stderr,
        )
        return 2
    work = Path(tempfile.mkdtemp(prefix="try-image-", dir=asked.work))
    buildah = Buildah(work)
    try:
        buildah.import_base(work / "base")
        config = buildah.build()
        container = Container(buildah.file_system(), config)
        check_contents(container)
        try_service(container, asked.bundle.resolve(), asked.base_model.resolve())
    except FailedError as error:
        say(f"FAILED: {error}")
        return 1
    finally:
        buildah.forget()
        shutil.rmtree(work, ignore_errors=True)
    say("all of it holds")
    return 0


def check_contents(container: Container) -> None:
    """Check what must not be in the image, and whose it is.

    Raises:
        FailedError: a compiler, pip, a cache or a training package is in it, or it runs as root.

    """
    unwanted = ("gcc", "g++", "cc", "c++", "clang", "make", "nvcc")
    found = [
        f"{folder}/{name}"
        for folder in ("usr/bin", "usr/local/bin", "opt/gradientspace/bin")
        for name in unwanted
        if (container.root / folder / name).exists()
    ]
    packages = next(container.root.glob("opt/gradientspace/lib/python3.11/site-packages"))
    found += [name for name in ("training", "evaluation", "pip", "peft", "sklearn", "pytest", "demo")
              if (packages / name).exists()]  # fmt: skip
    for cache in ("root/.cache", "var/lib/apt/lists", "var/cache/apt", "cache", "src"):
        found += [str(path) for path in (container.root / cache).glob("*")]
    if found:
        raise FailedError(f"the image holds {found}")
    if container.config["User"] != "10001:10001":
        raise FailedError(f"the image runs as {container.config['User']!r}")
    say("no compiler, no pip, no cache, nothing of training in the image; its user is 10001")


def ask(running: Running, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return headers and body of an answer; raises FailedError if it is none."""
    answer = running.execute("python", "-I", "-c", _ASK, path, json.dumps(body))
    return dict(json.loads(answer))


def try_service(container: Container, bundle: Path, base: Path) -> None:
    """Start it, ask it, stop it.

    Raises:
        FailedError: something does not hold, with the end of the service's log.

    """
    log = container.root.parent / "service.log"
    mounts = {"/bundle": bundle, "/base": base}
    running = container.start(mounts, {"GRADIENTSPACE_BASE_MODEL": "/base"}, log)
    try:
        _wait_until_healthy(running)
        _check_confinement(running)
        _ask_everything(running)
        start = time.monotonic()
        os.kill(running.process, signal.SIGTERM)
        code = running.exit_code()
        if code != 0:
            raise FailedError(f"SIGTERM: exit code {code}")
        say(f"SIGTERM to process 1: exit code 0 after {time.monotonic() - start:.1f} s")
    except (FailedError, subprocess.TimeoutExpired) as error:
        raise FailedError(f"{error}\n-- the service's log:\n{log.read_text()[-4000:]}") from error
    finally:
        running.unshare.kill()
        running.unshare.wait()


def _wait_until_healthy(running: Running) -> None:
    start = time.monotonic()
    if running.healthy():
        raise FailedError("the health check passes before the service is ready")
    while not running.healthy():
        if running.unshare.poll() is not None:
            raise FailedError(f"the service ended with {running.unshare.returncode} before it was ready")
        if time.monotonic() - start > _READY_SECONDS:
            raise FailedError(f"not healthy within {_READY_SECONDS} s")
        time.sleep(1)
    say(f"HEALTHCHECK passes {time.monotonic() - start:.0f} s after the start")


def _check_confinement(running: Running) -> None:
    status = dict(re.findall(r"^(\w+):\s+(.*)$", running.execute("cat", "/proc/1/status"), re.M))
    held = {name: status[name].split()[0] for name in ("Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs")}
    wanted = {"Uid": "10001", "Gid": "10001", "CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1"}
    if held != wanted:
        raise FailedError(f"process 1 has {held}")
    root = re.search(r"^\S+ / \S+ (\S+)", running.execute("cat", "/proc/1/mounts"), re.M)
    if root is None or "ro" not in root.group(1).split(","):
        raise FailedError(f"the root is not mounted read-only: {root and root.group(1)}")
    writable = running.execute("sh", "-c", "for d in / /opt/gradientspace /etc /bundle /tmp /cache; do "
                               "touch $d/probe 2>/dev/null && echo $d; done; true").split()  # fmt: skip
    if writable != ["/tmp", "/cache"]:
        raise FailedError(f"these are writable: {writable}")
    say(f"process 1 is the service: {held}; only /tmp and /cache can be written")


def _ask_everything(running: Running) -> None:
    question = [{"role": "user", "content": "What is 17 times 24?"}]
    chat: dict[str, Any] = {"model": "auto", "messages": question, "max_tokens": 8}
    answer = ask(running, "/v1/chat/completions", chat)
    expert, reason = (answer["headers"][f"x-gradientspace-{name}"] for name in ("expert", "reason"))
    if reason != "routed" or not re.fullmatch(r"expert-\d+@[0-9a-f]{12}", answer["body"]["model"]):
        raise FailedError(f"the answer was not routed: {reason}, {answer['body']['model']}")
    say(f"routed answer from {expert}: {answer['body']['choices'][0]['message']['content']!r}")
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    more: dict[str, dict[str, Any]] = {
        "log-probabilities": {"logprobs": True, "top_logprobs": 3},
        "sampling": {"temperature": 1.0, "top_p": 0.9, "top_k": 20, "seed": 1, "n": 2},
        "penalties": {"presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.1},
        "a JSON schema": {
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        },
    }
    for body in more.values():
        ask(running, "/v1/chat/completions", chat | body)
    ask(running, "/v1/completions", {"model": "auto", "prompt": ["2+2=", "Once upon a time"], "logprobs": 2})
    say(f"answered without a compiler and without a network: {', '.join(more)}, a prompt list")
    written = running.execute(
        "du", "--summarize", "--block-size=1k", "/tmp", "/cache", "/dev/shm"
    ).splitlines()
    say("written so far: " + ", ".join(line.replace("\t", " kB in ") for line in written))


if __name__ == "__main__":
    raise SystemExit(main())
