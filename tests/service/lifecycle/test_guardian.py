"""What a service started ends with it, also when it is killed and can end nothing itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

_SERVICE = """
import subprocess, sys, time
from service.lifecycle.guardian import guarded
with guarded():
    child = "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    started = subprocess.Popen([sys.executable, "-c", child])
    print(started.pid, flush=True)
    sys.stdin.readline()
"""


def started() -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    service = subprocess.Popen(
        [sys.executable, "-c", _SERVICE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert service.stdout is not None
    family = [psutil.Process(int(service.stdout.readline())) for _ in range(2)]
    time.sleep(2)  # the guardian has to have seen them
    return service, family


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_service_that_is_killed_leaves_nothing_behind(number: signal.Signals) -> None:
    service, family = started()
    service.send_signal(number)
    service.wait(120)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []


def test_a_guardian_ends_with_its_service_and_has_no_secret() -> None:
    service, family = started()
    children = psutil.Process(service.pid).children()
    (guardian,) = [one for one in children if "guardian.py" in " ".join(one.cmdline())]
    assert guardian.environ() == {}
    assert service.stdin is not None
    service.stdin.close()
    service.wait(20)
    assert not guardian.is_running()
    for process in family:
        process.kill()
