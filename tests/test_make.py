"""`make serve`, as a newcomer runs it: ready with a line to paste, and gone without a trace on a signal."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).parents[1]
PORT = 18431


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_serve_from_a_finished_bundle(demo_bundle: Path, tmp_path: Path, stop: signal.Signals) -> None:
    run = tmp_path / "demo"
    run.mkdir()
    (run / "rows.jsonl").write_text("")
    shutil.copytree(demo_bundle, run / "bundle")
    os.utime(run / "bundle" / "bundle.json")
    log = tmp_path / "log"
    with log.open("w") as out:
        make = subprocess.Popen(
            ["make", "serve", f"DEMO={run}", f"PORT={PORT}"],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 900
            while "curl" not in log.read_text():
                assert make.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            assert "Stage I" not in log.read_text()  # nothing is trained again
            (line,) = re.findall(r"^\s*(curl .*)$", log.read_text(), flags=re.MULTILINE)
            pasted = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
            assert pasted.returncode == 0
            assert '"model":"expert-' in pasted.stdout.replace(" ", "")
            served = psutil.Process(make.pid)
            family = [served, *served.children(recursive=True)]
            # Ctrl-C reaches the whole foreground group, SIGTERM the process that was named.
            (os.killpg if stop is signal.SIGINT else os.kill)(make.pid, stop)
            make.wait(300)
        finally:
            if make.poll() is None:
                os.killpg(make.pid, signal.SIGKILL)
    # Python's resource tracker ends a moment after the process that it is of.
    _, alive = psutil.wait_procs(family, timeout=60)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{PORT}/health/live")
