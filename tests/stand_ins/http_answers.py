"""What tests over the wire read off an answer: an error in our shape, the samples of /metrics."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from service import headers

ERROR_KEYS = {"message", "type", "param", "code"}


def check_error(
    answer: httpx.Response, status: int, kind: str, code: int | str | None = None
) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == ERROR_KEYS
    assert (error["type"], error["code"]) == (kind, code or status)
    assert error["message"]
    for name in headers.ON_EVERY_ANSWER:
        assert answer.headers[name]
    return error


def samples(http: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}
