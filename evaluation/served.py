"""Score a served endpoint on rows, over HTTP alone: loss per response token, exact match, and who answered."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.answers.exact_match import is_match
from evaluation.record import write_whole
from training.errors import RowsError, TrainingError
from training.progress import Narrator
from training.rows.conversations import Message
from training.rows.files import records
from training.rows.reading import Row, parse_row

_TIMEOUT_SECONDS = 300
_AUTO = "auto"


class EndpointError(TrainingError):
    """The endpoint can't be reached, or refuses what is asked of it."""


@dataclass
class _Served:
    """What rows of one source came to."""

    rows: int = 0
    loss: float = 0.0
    tokens: int = 0
    asked: int = 0
    right: int = 0
    answered_by: Counter[str] = field(default_factory=Counter)


class Endpoint:
    """An endpoint that speaks OpenAI's interface and vLLM's `/tokenize`; ours also says who would answer."""

    def __init__(self, url: str, model: str, api_key: str | None = None) -> None:
        """`url` may end in /v1; `model` is asked for by name, `auto` lets the service choose."""
        self._url = url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"

    def who_answers(self, prompt: Sequence[Message]) -> str:
        """Return the model that this conversation goes to.

        Raises:
            EndpointError: as every method here.

        """
        if self._model != _AUTO:
            return self._model
        return str(self._post("/v1/route", {"messages": list(prompt)})["data"][0]["expert"])

    def response_loss(self, model: str, row: Row) -> tuple[float, int]:
        """Return the summed loss, in nats, and the number of the response's tokens, after the row's prompt."""
        before = self._tokens(model, row.prompt, open_turn=True)["tokens"]
        answer = {"role": "assistant", "content": row.completion}
        whole = self._tokens(model, [*row.prompt, answer], open_turn=False)
        ids, texts = whole["tokens"], whole["token_strs"]
        if ids[: len(before)] != before:
            raise EndpointError(
                f"{row.origin}: the chat template opens the assistant's turn in another way than it renders it."
            )
        while len(ids) > len(before) + 1 and not _seen(texts[len(ids) - 1]):
            ids = ids[:-1]  # after the end of the turn, what no model has to write
        asked = {
            "model": model,
            "prompt": ids,
            "max_tokens": 0,
            "echo": True,
            "logprobs": 1,
            "temperature": 0,
        }
        choice = self._post("/v1/completions", asked)["choices"][0]
        found = choice["logprobs"]["token_logprobs"][len(before) : len(ids)]
        return -sum(found), len(found)

    def answer(self, model: str, prompt: Sequence[Message], max_new_tokens: int) -> str:
        """Return the greedy answer."""
        asked = {
            "model": model,
            "messages": list(prompt),
            "max_tokens": max_new_tokens,
            "temperature": 0,
        }
        return str(self._post("/v1/chat/completions", asked)["choices"][0]["message"]["content"])

    def _tokens(self, model: str, messages: Sequence[Message], open_turn: bool) -> dict[str, Any]:
        asked = {
            "model": model,
            "messages": list(messages),
            "add_generation_prompt": open_turn,
            "return_token_strs": True,
        }
        return self._post("/tokenize", asked)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self._url + path, json.dumps(body).encode(), self._headers, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            said = error.read().decode("utf-8", "replace")[:300]
            raise EndpointError(f"{self._url}{path} answers {error.code}: {said}") from error
        except (OSError, ValueError) as error:
            raise EndpointError(
                f"{self._url}{path} can't be asked ({error}). Is the service running, and is this its address?"
            ) from error


def score_endpoint(
    endpoint: Endpoint, rows: Path, max_new_tokens: int, output: Path | None, narrator: Narrator
) -> str:
    """Score an endpoint on a file of rows and return the table as Markdown; with `output` write served.json too.

    Raises:
        EndpointError: the endpoint refuses or is not there.
        RowsError: the file has no usable row.

    """
    asked = [
        (row, record.get("answer"))
        for origin, record in records(str(rows))
        if isinstance(row := parse_row(origin, record), Row)
    ]
    if not asked:
        raise RowsError(f"{rows}: there is not one usable row in it.")
    found: dict[str, _Served] = {}
    with narrator.bar("asking", len(asked), "rows") as advance:
        for row, answer in asked:
            one = found.setdefault(row.source or rows.stem, _Served())
            model = endpoint.who_answers(row.prompt)
            loss, tokens = endpoint.response_loss(model, row)
            one.rows, one.loss, one.tokens = one.rows + 1, one.loss + loss, one.tokens + tokens
            one.answered_by[model] += 1
            if answer is not None:
                one.asked += 1
                one.right += is_match(endpoint.answer(model, row.prompt, max_new_tokens), str(answer))
            advance(1)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_whole(output / "served.json", json.dumps({"served": _as_json(found)}, indent=2) + "\n")
    return _as_markdown(found)


def _seen(token: str) -> bool:
    return bool(
        token.strip(" \n\r\t\u0120\u010a\u2581")
    )  # also as byte-level and SentencePiece tokenizers write them


def _as_json(found: dict[str, _Served]) -> dict[str, Any]:
    return {
        source: {
            "rows": one.rows,
            "loss": one.loss / one.tokens,
            "response_tokens": one.tokens,
            "exact_match": one.right / one.asked if one.asked else None,
            "answered_by": dict(one.answered_by),
        }
        for source, one in found.items()
    }


def _as_markdown(found: dict[str, _Served]) -> str:
    lines = [
        "| source | rows | loss per response token | exact match | answered by |",
        "|---|---|---|---|---|",
    ]
    for source, one in found.items():
        match = f"{100 * one.right / one.asked:.1f} % of {one.asked}" if one.asked else ""
        by = ", ".join(f"{name} {count}" for name, count in one.answered_by.most_common())
        lines.append(f"| {source} | {one.rows} | {one.loss / one.tokens:.4f} | {match} | {by} |")
    return "\n".join(lines)
