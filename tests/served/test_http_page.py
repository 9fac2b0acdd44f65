"""What docs/http.md shows is run, and what it lists is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service import headers
from service.errors import STATUS_OF, TYPE_OF
from service.request.constraints import MAX_CHARACTERS
from service.request.decision import LISTED_PROMPTS
from service.request.endpoints import ENDPOINTS
from service.request.json_body import MAX_DEPTH
from service.request.refused_fields import REFUSED
from tests.stand_ins.live_server import LiveServer

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=["openai", "anthropic", "langchain"])
def test_the_examples(example: str, server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(example.replace("http://127.0.0.1:8000", server.url), "http.md", "exec"), {})
    assert re.match(r"expert-\d(@[0-9a-f]{12})? \s*\S", capsys.readouterr().out)


def test_every_name_stands_on_the_page() -> None:
    for name in (*ENDPOINTS, *REFUSED, *headers.ON_EVERY_ANSWER, *headers.ON_EVERY_DECISION):
        assert f"{name}`" in PAGE, name
    listed = {int(status) for status in re.findall(r"^\| (\d{3}) \|", PAGE, flags=re.MULTILINE)}
    # 401 and 431 are given before a request is one: by the keys, and by the reader of its head.
    assert set(STATUS_OF.values()) <= listed <= {401, 431, *TYPE_OF}
    for number in (MAX_CHARACTERS, MAX_DEPTH, LISTED_PROMPTS):
        assert f"{number:,}" in PAGE
