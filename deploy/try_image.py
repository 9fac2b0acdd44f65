"""Build the real Dockerfile without a Docker engine, run it locked down, and get a routed answer from it.

    python deploy/try_image.py runs/demo/bundle --base-model demo/base

For machines without a container registry or engine: as root, with Debian's `buildah` and `debootstrap`. The
base image is a stand-in, Debian bookworm with Debian's own Python 3.11. What `docker run --read-only --tmpfs /tmp
--tmpfs /cache --cap-drop ALL --security-opt no-new-privileges --network none` gives a container is made of
namespaces here: process 1 is the service, as the image's user, on a root it can't write. Prints one line per check
and fails with the first that does not hold. Takes some minutes and 12 GB below --work, all of it removed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STAND_IN = "localhost/python-stand-in:3.11"
IMAGE = "localhost/gradientspace:tried"
READY_SECONDS = 300
STOP_SECONDS = 60
NEEDS = ("buildah", "debootstrap", "unshare", "nsenter", "ip")

# A client, to be run inside the container, whose network is its own: asks PATH with BODY, prints the answer.
ASK = """
import json, sys, urllib.request
path, body = sys.argv[1:]
request = urllib.request.Request("http://127.0.0.1:8000" + path, body.encode() or None,
                                 {"content-type": "application/json"})
with urllib.request.urlopen(request, timeout=120) as answer:
    print(json.dumps({"headers": {k.lower(): v for k, v in answer.headers.items()},
                      "body": json.loads(answer.read())}))
"""


class FailedError(Exception):
    """Something did not hold; the message says what."""


def say(text: str) -> None:
    """Print one line at once."""
    print(f"== {text}", flush=True)


def main() -> int:
    """Build, run, ask, stop; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--base-model", type=Path, required=True, help="folder of the bundle's base model")
    parser.add_argument(
        "--work", type=Path, default=Path("/var/tmp"), help="where the images are kept meanwhile"
    )
    asked = parser.parse_args()
    missing = [tool for tool in NEEDS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        print(
            f"Run it as root, with {', '.join(NEEDS)}; missing: {', '.join(missing) or 'root'}",
            file=sys.stderr,
        )
        return 2
    work = Path(tempfile.mkdtemp(prefix="try-image-", dir=asked.work))
    buildah = Buildah(work)
    try:
        buildah.import_base(work / "base")
        buildah.build()
        container = buildah.container()
        container.check_contents()
        try_service(container, asked.bundle.resolve(), asked.base_model.resolve())
    except FailedError as error:
        say(f"FAILED: {error}")
        return 1
    finally:
        buildah.forget()
        shutil.rmtree(work, ignore_errors=True)
    say("all of it holds")
    return 0


def run(*command: str | Path, **options: Any) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        FailedError: it failed; with the end of what it said.

    """
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise FailedError(f"{shlex.join(str(part) for part in command)[:200]}: {said}")
    return done.stdout


class Buildah:
    """buildah with a storage of its own, so that nothing of the machine's is touched or left."""

    def __init__(self, work: Path) -> None:
        """`work` is an empty folder with room for the image several times over."""
        self._work = work
        self._command: list[str | Path] = [
            "buildah",
            "--storage-driver",
            "vfs",
            "--root",
            work / "store",
            "--runroot",
            work / "run",
        ]
        self._environment = os.environ | {"TMPDIR": str(work), "BUILDAH_ISOLATION": "chroot"}

    def _run(self, *arguments: str | Path) -> str:
        return run(*self._command, *arguments, env=self._environment, cwd=ROOT)

    def import_base(self, folder: Path) -> None:
        """Make the stand-in for the Dockerfile's base: Python 3.11 where the official image has it."""
        start = time.monotonic()
        packages = "python3.11,python3.11-venv,python3-distutils,ca-certificates"
        run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", folder)
        for name in ("python", "python3", "python3.11"):
            (folder / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
        shutil.rmtree(folder / "var/cache/apt/archives")
        run("tar", "-C", folder, "-cf", self._work / "base.tar", ".")
        shutil.rmtree(folder)
        base = self._run("from", "--name", "base", "scratch").strip()
        self._run("add", base, self._work / "base.tar", "/")
        self._run("commit", "--rm", base, STAND_IN)
        (self._work / "base.tar").unlink()
        say(f"stand-in base made in {time.monotonic() - start:.0f} s")

    def build(self) -> None:
        """Build the CPU variant of the Dockerfile."""
        start = time.monotonic()
        self._run(
            *("bud", "--pull-never", "--network", "host", "--format", "docker", "--tag", IMAGE),
            *("--build-arg", f"PYTHON_IMAGE={STAND_IN}", "--build-arg", "VARIANT=cpu"),
            *(part for mount in pip_mounts(self._work) for part in ("--volume", f"{mount}:ro")),
            ROOT,
        )
        image = json.loads(self._run("inspect", "--type", "image", IMAGE))
        base = json.loads(self._run("images", "--json", STAND_IN))[0]["size"]
        whole = json.loads(self._run("images", "--json", IMAGE))[0]["size"]
        say(f"built in {time.monotonic() - start:.0f} s: {whole}, of which the stand-in base {base}")
        self.config: dict[str, Any] = image["Docker"]["config"]

    def container(self) -> Container:
        """Return a file system made from the image."""
        name = self._run("from", "--pull-never", IMAGE).strip()
        return Container(Path(self._run("mount", name).strip()), self.config)

    def forget(self) -> None:
        """Unmount and remove everything."""
        for arguments in (("umount", "--all"), ("rm", "--all"), ("rmi", "--all", "--force")):
            subprocess.run(
                [*self._command, *arguments], env=self._environment, capture_output=True, check=False
            )


def pip_mounts(work: Path) -> list[str]:
    """Return what a build has to see for its pip to be set up as this machine's is: PATH:PATH of each.

    The Dockerfile knows nothing of it: a package index is the builder's affair, the hashes are the image's.
    """
    options = dict(
        re.findall(r"^[^.]+\.([a-z-]+)='(.*)'$", run(sys.executable, "-m", "pip", "config", "list"), re.M)
    )
    (work / "pip.conf").write_text(
        "[global]\n" + "".join(f"{key} = {value}\n" for key, value in options.items())
    )
    mounts = {f"{work / 'pip.conf'}:/etc/pip.conf"}
    for word in " ".join(options.values()).split():
        # The pages of an index in a folder point to files beside that folder.
        path = Path(word.removeprefix("file://")).parent if word.startswith("file:///") else Path(word)
        if path.is_absolute() and path.exists():
            mounts.add(f"{path}:{path}")
    return sorted(mounts)


@dataclass
class Container:
    """A file system made from the image, and how the image wants to be run."""

    root: Path
    config: dict[str, Any]

    def check_contents(self) -> None:
        """Check what must not be in the image, and whose it is.

        Raises:
            FailedError: a compiler, pip, a cache or a training package is in it, or it runs as root.

        """
        unwanted = ("gcc", "g++", "cc", "c++", "clang", "make", "nvcc")
        found = [
            f"{folder}/{name}"
            for folder in ("usr/bin", "usr/local/bin", "opt/gradientspace/bin")
            for name in unwanted
            if (self.root / folder / name).exists()
        ]
        packages = next(self.root.glob("opt/gradientspace/lib/python3.11/site-packages"))
        found += [name for name in ("training", "evaluation", "pip", "peft", "sklearn", "pytest", "demo")
                  if (packages / name).exists()]  # fmt: skip
        for cache in ("root/.cache", "var/lib/apt/lists", "var/cache/apt", "cache", "src"):
            found += [str(path) for path in (self.root / cache).glob("*")]
        if found:
            raise FailedError(f"the image holds {found}")
        if self.config["User"] != "10001:10001":
            raise FailedError(f"the image runs as {self.config['User']!r}")
        say("no compiler, no pip, no cache, nothing of training in the image; its user is 10001")

    def _as_its_user(self) -> list[str]:
        user, group = self.config["User"].split(":")
        return [
            *("setpriv", "--reuid", user, "--regid", group, "--clear-groups"),
            *("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"),
            *("env", "-i", *self.config["Env"]),
        ]

    def start(self, mounts: dict[str, Path], settings: dict[str, str], log: Path) -> Running:
        """Start the image's entry point as process 1: no network but its own, a root it can't write."""
        read_only = []
        for target, source in mounts.items():
            (self.root / target.lstrip("/")).mkdir(exist_ok=True)
            read_only.append(f'mount --bind -o ro "{source}" "$root{target}"')
        devices = "\n".join(
            f"touch $root/dev/{name}; mount --bind /dev/{name} $root/dev/{name}"
            for name in ("null", "zero", "full", "random", "urandom")
        )
        variables = [f"{name}={value}" for name, value in settings.items()]
        command = shlex.join(
            ["chroot", str(self.root), *self._as_its_user(), *variables, *self.config["Entrypoint"]]
        )
        setup = f"""
            set -e
            root={shlex.quote(str(self.root))}
            ip link set lo up
            mount --bind $root $root
            mount -t proc proc $root/proc
            mount --rbind -o ro /sys $root/sys
            mount -t tmpfs -o mode=755 tmpfs $root/dev
            {devices}
            mkdir $root/dev/shm; mount -t tmpfs -o size=64m tmpfs $root/dev/shm
            mount -t tmpfs -o mode=1777,noexec,nosuid,nodev tmpfs $root/tmp
            mount -t tmpfs -o mode=1777,noexec,nosuid,nodev tmpfs $root/cache
            {chr(10).join(read_only)}
            mount -o remount,bind,ro $root
            exec {command}
        """
        with log.open("w") as stream:
            unshare = subprocess.Popen(
                [
                    "unshare",
                    "--pid",
                    "--net",
                    "--mount",
                    "--ipc",
                    "--uts",
                    "--fork",
                    "--kill-child",
                    "bash",
                    "-c",
                    setup,
                ],
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
        while not children.read_text().split() and unshare.poll() is None:
            time.sleep(0.05)
        return Running(self, unshare, int(children.read_text().split()[0]), log)

    def inside(self, process: int, *command: str) -> list[str]:
        """Return the command that runs another command inside, as `docker exec` would."""
        enter = ["nsenter", "--target", str(process), "--mount", "--net", "--pid", "--ipc", "--root", "--wd"]
        return [*enter, *self._as_its_user(), *command]


@dataclass
class Running:
    """A container that runs."""

    container: Container
    unshare: subprocess.Popen[bytes]
    process: int
    """The container's process 1, as this machine numbers it."""
    log: Path

    def execute(self, *command: str) -> str:
        """Run a command inside and return what it printed; raises FailedError."""
        return run(*self.container.inside(self.process, *command))

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return headers and body of an answer; raises FailedError."""
        answer = self.execute("python", "-I", "-c", ASK, path, json.dumps(body) if body else "")
        return dict(json.loads(answer))

    def healthy(self) -> bool:
        """Whether the image's own health check passes."""
        check = self.container.inside(self.process, *self.container.config["Healthcheck"]["Test"][1:])
        return subprocess.run(check, capture_output=True, check=False).returncode == 0

    def exit_code(self) -> int:
        """Wait for the end."""
        return self.unshare.wait(STOP_SECONDS)


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
        if time.monotonic() - start > READY_SECONDS:
            raise FailedError(f"not healthy within {READY_SECONDS} s")
        time.sleep(1)
    say(f"HEALTHCHECK passes {time.monotonic() - start:.0f} s after the start")


def _check_confinement(running: Running) -> None:
    status = dict(re.findall(r"^(\w+):\s+(.*)$", running.execute("cat", "/proc/1/status"), re.M))
    held = {name: status[name].split()[0] for name in ("Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs")}
    wanted = {"Uid": "10001", "Gid": "10001", "CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1"}
    if held != wanted:
        raise FailedError(f"process 1 has {held}")
    writable = running.execute("sh", "-c", "for d in / /opt/gradientspace /etc /bundle /tmp /cache; do "
                               "touch $d/probe 2>/dev/null && echo $d; done; true").split()  # fmt: skip
    if writable != ["/tmp", "/cache"]:
        raise FailedError(f"these are writable: {writable}")
    say(f"process 1 is the service: {held}; only /tmp and /cache can be written")


def _ask_everything(running: Running) -> None:
    question = [{"role": "user", "content": "What is 17 times 24?"}]
    chat: dict[str, Any] = {"model": "auto", "messages": question, "max_tokens": 8}
    answer = running.ask("/v1/chat/completions", chat)
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
        running.ask("/v1/chat/completions", chat | body)
    running.ask("/v1/completions", {"model": "auto", "prompt": ["2+2=", "Once upon a time"], "logprobs": 2})
    say(f"answered without a compiler and without a network: {', '.join(more)}, a prompt list")
    written = running.execute("du", "--summarize", "--block-size=1k", "/tmp", "/cache", "/dev/shm").split()
    say(
        "written so far: "
        + ", ".join(f"{where} {size} kB" for size, where in zip(*[iter(written)] * 2, strict=True))
    )


if __name__ == "__main__":
    raise SystemExit(main())
