"""How log lines look, as text or as JSON: the service's, uvicorn's, and in every process vLLM's.

At the default level no line carries a text that was asked. The message of an exception can quote one (a
validation error repeats its input), so it is left out where such texts are at hand, and the type and the
places stay. The engine's own code sees nothing but token ids: what it raises is said in full.

Only the standard library is imported here, because the engine's processes load this file first of all.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from typing import Any, Literal

LogFormat = Literal["text", "json"]
CONSOLE, REQUESTS = "service.console", "service.requests"
_FORMAT_VARIABLE, _MESSAGES_VARIABLE = "GRADIENTSPACE_LOG_FORMAT", "GRADIENTSPACE_VERBOSE"


def configure_logging(
    log_format: LogFormat, verbose: bool, log_requests: bool, without_texts: tuple[str, ...] = ()
) -> None:
    """Send every line of this process to standard error; what it sets in the environment tells the engine's processes.

    Loggers under `without_texts` have no text at hand that was asked: what they raise is said in full.
    """
    os.environ[_FORMAT_VARIABLE] = log_format
    os.environ[_MESSAGES_VARIABLE] = str(int(verbose))
    root = logging.getLogger()
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    for handler in [h for h in root.handlers if isinstance(h, ServiceHandler)]:
        root.removeHandler(handler)
    root.addHandler(ServiceHandler(without_texts))
    logging.captureWarnings(True)
    logging.getLogger(CONSOLE).setLevel(logging.INFO)
    logging.getLogger(REQUESTS).setLevel(logging.INFO if log_requests else logging.CRITICAL)
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def as_json() -> bool:
    """Whether lines are JSON."""
    return os.environ.get(_FORMAT_VARIABLE) == "json"


class ServiceHandler(logging.StreamHandler[Any]):
    """To standard error, in the format that `configure_logging` put into the environment."""

    def __init__(self, without_texts: tuple[str, ...] = ()) -> None:
        """`without_texts` are as those of `configure_logging`."""
        super().__init__(sys.stderr)
        formatter = JsonFormatter if as_json() else TextFormatter
        self.setFormatter(formatter(os.environ.get(_MESSAGES_VARIABLE) == "1", without_texts))


class _DiscreetFormatter(logging.Formatter):
    """Leaves the messages of exceptions out unless asked for them."""

    def __init__(self, with_messages: bool, without_texts: tuple[str, ...]) -> None:
        super().__init__()
        self._with_messages = with_messages
        self._without_texts = without_texts

    def message(self, record: logging.LogRecord) -> str:
        """Return what a record says; of an exception in it only the type."""
        if self._tells_all(record):
            return record.getMessage()
        args = record.args if isinstance(record.args, tuple) else ()
        error = record.exc_info[1] if record.exc_info else None
        said = record.getMessage()
        for one in (error, *args):
            if isinstance(one, BaseException) and str(one):
                said = said.replace(str(one), type(one).__name__)
        return said

    def _tells_all(self, record: logging.LogRecord) -> bool:
        return self._with_messages or record.name.startswith(self._without_texts)

    def trace(self, record: logging.LogRecord) -> str:
        """Return the traceback of a record, empty if it has none."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return record.exc_text or ""
        if self._tells_all(record):
            return "".join(traceback.format_exception(error)).rstrip()
        return "\n".join(reversed([_places(one) for one in _chain(error)]))

    def time_of(self, record: logging.LogRecord) -> str:
        """Return the record's time in UTC, to the millisecond."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{seconds}.{int(record.msecs):03d}Z"


class TextFormatter(_DiscreetFormatter):
    """Lines for people. What the service says while it starts and ends stands there bare."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        if record.name == CONSOLE:
            return record.getMessage()
        said = (
            self.message(record).replace("\r", "\\r").replace("\n", "\\n")
        )  # no line can be forged with a break
        line = f"{self.time_of(record)} {record.levelname} {record.name}: {said}"
        trace = self.trace(record)
        return f"{line}\n{trace}" if trace else line


class JsonFormatter(_DiscreetFormatter):
    """One JSON object per line; the facts of a request are fields of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": self.time_of(record),
            "level": record.levelname,
            "logger": record.name,
            "process": getattr(record, "vllm_process_name", record.processName),
            "message": self.message(record),
            **getattr(record, "fields", {}),
        }
        trace = self.trace(record)
        if trace:
            line["exception"] = trace
        return json.dumps(line, default=str)


def _chain(error: BaseException) -> list[BaseException]:
    """Return the error, what it was raised from, and so on."""
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    return chain


def _places(error: BaseException) -> str:
    kind = type(error)
    where = "".join(traceback.format_tb(error.__traceback__))
    return f"Traceback (most recent call last):\n{where}{kind.__module__}.{kind.__qualname__} (--verbose says more)"
