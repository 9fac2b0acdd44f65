"""A container made of namespaces: what Docker gives one that may do nothing, on a machine without Docker."""

from __future__ import annotations

import shlex
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps import run

_UNSHARE = ["unshare", "--pid", "--net", "--mount", "--ipc", "--uts", "--fork", "--kill-child"]
_STOP_SECONDS = 60


@dataclass
class Container:
    """A file system made from the image, and how the image wants to be run."""

    root: Path
    config: dict[str, Any]

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
                [*_UNSHARE, "bash", "-c", setup],
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

    def healthy(self) -> bool:
        """Whether the image's own health check passes."""
        check = self.container.inside(self.process, *self.container.config["Healthcheck"]["Test"][1:])
        return subprocess.run(check, capture_output=True, check=False).returncode == 0

    def exit_code(self) -> int:
        """Wait for the end."""
        return self.unshare.wait(_STOP_SECONDS)
