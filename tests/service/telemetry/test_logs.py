"""What stands in the log, and what must not."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service import logs
from service.engine.environment import prepare_environment
from service.engine.log_lines import SEES_ONLY_TOKENS, configure_engine_logging
from service.layers.request_id import RequestIds
from service.logs import configure_logging
from tests.stand_ins.dispatch_setup import Setup, WordRouter

MARKER = "zebra-finch-4711"


@pytest.fixture
def logged(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Configures logging, and returns what was logged since."""
    for name in ("GRADIENTSPACE_LOG_FORMAT", "GRADIENTSPACE_VERBOSE", "VLLM_LOGGING_CONFIG_PATH"):
        monkeypatch.setenv(name, "")  # so that what is set here is unset afterwards
    names = (None, logs.CONSOLE, logs.REQUESTS)
    levels = {name: logging.getLogger(name).level for name in names}

    class Logged:
        def configure(self, log_format: Any, verbose: bool = False, log_requests: bool = True) -> None:
            configure_logging(log_format, verbose, log_requests, SEES_ONLY_TOKENS)
            configure_engine_logging()

        def lines(self) -> list[str]:
            return capfd.readouterr().err.splitlines()

    yield Logged()
    root = logging.getLogger()
    root.handlers = [h for h in root.handlers if not isinstance(h, logs.ServiceHandler)]
    logging.captureWarnings(False)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


async def ask(setup: Setup, body: Any, path: str = "/v1/completions", request_id: str = "mine-7") -> None:
    app = RequestIds(setup.app, "bundle")
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        await client.post(path, json=body, headers={"x-request-id": request_id})


async def test_a_request_is_one_json_line_with_its_facts(logged: Any) -> None:
    setup = Setup()
    logged.configure("json")
    await ask(setup, {"prompt": ["1 a", "0 b", "1 c"], "stream": True})
    (line,) = logged.lines()
    said = json.loads(line)
    times = {name: said.pop(name) for name in ("time", "duration_ms", "first_token_ms")}
    assert times["time"].endswith("Z")
    assert 0 < times["first_token_ms"] <= times["duration_ms"] < 60_000
    assert said.pop("message").startswith("POST /v1/completions 200, expert-1,expert-0 (routed 0.80), ")
    assert said == {
        "level": "INFO",
        "logger": "service.requests",
        "process": "MainProcess",
        "request_id": "mine-7",
        "method": "POST",
        "path": "/v1/completions",
        "status": 200,
        "expert": "expert-1,expert-0",
        "model": f"{setup.names.experts[1].engine_name},{setup.names.experts[0].engine_name}",
        "reason": "routed",
        "confidence": 0.8,
        "prompts": 3,
        "router_ms": 4.0,
        "prompt_tokens": 30,
        "completion_tokens": 3,
    }


async def test_a_refused_request_has_a_line_without_an_expert(logged: Any) -> None:
    logged.configure("json")
    await ask(Setup(), {"model": "nobody", "prompt": "1 a"})
    (line,) = logged.lines()
    assert json.loads(line)["status"] == 404
    assert "expert" not in json.loads(line)


async def test_a_line_for_people(logged: Any) -> None:
    logged.configure("text")
    await ask(Setup(), {"prompt": "1 a"})
    (line,) = logged.lines()
    assert " INFO service.requests: POST /v1/completions 200, expert-1 (routed 0.80), " in line
    assert line.endswith(", router 4.0 ms, 10+1 tokens [mine-7]")


async def test_no_line_for_probes_or_if_not_wanted(logged: Any) -> None:
    logged.configure("text")
    for path in ("/health/ready", "/metrics"):
        await ask(Setup(), {}, path)
    logged.configure("text", log_requests=False)
    await ask(Setup(), {"prompt": "1 a"})
    assert logged.lines() == []


async def test_no_line_can_be_forged(logged: Any) -> None:
    logged.configure("text")
    forged = "/v1/x%0A2026-01-01T00:00:00.000Z INFO service.requests: POST /v1/completions 200" + "a" * 9000
    await ask(Setup(), {}, forged, request_id="a b\tc")
    (line,) = logged.lines()
    assert len(line) < 400
    assert "POST /v1/x\\n2026" in line


class Failing:
    def at_once(self, text: str) -> None:
        return None

    async def route(self, texts: Any, since: float | None = None) -> Any:
        raise ValueError(f"can't read {texts[0]}")


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_the_text_of_a_request_is_never_logged(logged: Any, log_format: str) -> None:
    crashing = Setup()
    crashing.inner.crash_with = RuntimeError(f"broke on {MARKER}")
    failing = Setup()
    failing.inner.fail_for = "expert"
    for verbose in (False, True):
        logged.configure(log_format, verbose)
        for setup in (Setup(), failing, Setup(Failing()), crashing):
            for body in (
                {"prompt": f"1 {MARKER}"},
                {"prompt": [f"1 {MARKER}", f"0 {MARKER}"], "stream": True},
                {"prompt": {MARKER: 1}},
                {"model": MARKER, "prompt": MARKER},
                {"model": [MARKER], "prompt": MARKER},
                [MARKER],
            ):
                await ask(setup, body)
        lines = logged.lines()
        assert len(lines) >= 24
        marked = [line for line in lines if MARKER in line]
        if verbose:
            assert marked, "what an exception says is said to who asks for it"
        else:
            assert marked == []
            text = "\n".join(lines)
            assert "builtins.RuntimeError" in text, "its kind and its place are said all the same"
            assert "fake_vllm.py" in text
        if log_format == "json":
            for line in lines:
                json.loads(line)


def test_what_the_engine_itself_raises_is_said_in_full(logged: Any) -> None:
    logged.configure("json")
    message = " ".join(("tried", "to", "allocate"))  # so that it does not stand in the line of code
    for name in ("vllm.v1.engine.core", "vllm.entrypoints.serve"):
        try:
            raise MemoryError(message) from ValueError("no room")
        except MemoryError:
            logging.getLogger(name).exception("It failed")
    core, entry = (json.loads(line)["exception"] for line in logged.lines())
    assert message in core
    assert message not in entry
    assert entry.index("builtins.ValueError") < entry.index("builtins.MemoryError")


def test_a_line_that_repeats_an_exception_names_its_type_instead(logged: Any) -> None:
    logged.configure("json")
    log = logging.getLogger("vllm.entrypoints.serve")
    try:
        raise ValueError(f"got {MARKER}")
    except ValueError as error:
        log.exception("Error in create_messages: %s", error)
        log.error("Refused: %s", error)
        log.exception(f"Failed with {error}")
    said = [json.loads(line)["message"] for line in logged.lines()]
    assert said == ["Error in create_messages: ValueError", "Refused: ValueError", "Failed with ValueError"]


def test_a_line_break_forges_no_line(logged: Any) -> None:
    logged.configure("text")
    logging.getLogger("somewhere").error("refused %s", "a\n2026-01-01 INFO forged\r\nmore")
    (line,) = logged.lines()
    assert "a\\n2026-01-01 INFO forged" in line


def test_what_the_service_says_of_itself_is_bare_text_or_json(logged: Any) -> None:
    from service import console

    logged.configure("text")
    console.say("router loaded")
    assert logged.lines() == ["router loaded"]
    logged.configure("json")
    console.say("router loaded")
    console.say_ready("0.0.0.0", 8000, 31.2)
    said = [json.loads(line)["message"] for line in logged.lines()]
    assert said == ["router loaded", "ready after 31 s on http://127.0.0.1:8000"]


_A_PROCESS_OF_VLLM = """
import sys
from vllm.config.logging import LoggingConfig
from vllm.logger import configure_logging, init_logger
configure_logging(LoggingConfig())
log = init_logger("vllm.entrypoints.x")
log.info("quiet")
try:
    raise ValueError(sys.argv[1])
except ValueError:
    log.exception("It failed")
"""


def test_vllms_lines_go_through_the_same_formatter_in_each_of_its_processes(
    logged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_LOGGING_CONFIG_PATH")
    logged.configure("json")
    environ = dict(os.environ)
    prepare_environment(environ, False, 2)
    done = subprocess.run(
        [sys.executable, "-c", _A_PROCESS_OF_VLLM, MARKER],
        **{"env": environ, "capture_output": True, "text": True, "timeout": 240},
    )
    assert done.returncode == 0, done.stderr
    assert MARKER not in done.stderr + done.stdout
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (line["level"], line["logger"], line["message"]) == ("ERROR", "vllm.entrypoints.x", "It failed")
    assert "builtins.ValueError" in line["exception"]


async def test_a_router_that_fails_is_served_and_logged_once_with_its_place(logged: Any) -> None:
    logged.configure("text")
    await ask(Setup(WordRouter(RuntimeError(MARKER))), {"prompt": "1 a"})
    text = "\n".join(logged.lines())
    assert text.count("ERROR service.request.decision: The router failed") == 1
    assert "in route" in text
