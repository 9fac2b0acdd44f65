"""No HTTP input reaches a file path or loads an adapter: baits lie ready, and nobody opens them."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bundle.read import Bundle
from service.request.endpoints import ENDPOINTS
from tests.stand_ins.live_server import ADMIN_KEY, LiveServer
from tests.stand_ins.opened_files import OpenedFiles

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "hello", "max_tokens": 1},
    "/v1/chat/completions": CHAT,
    "/v1/responses": {"input": "hello", "max_output_tokens": 1},
    "/v1/messages": CHAT,
    "/v1/messages/count_tokens": CHAT,
    "/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [5, 6]},
}


class Bait:
    """A good adapter where no bundle is, and files that somebody might read."""

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        self.adapter = folder / "adapter"
        shutil.copytree(bundle.expert_folder(0), self.adapter)
        self.template = folder / "template.jinja"
        self.template.write_text("caught")
        self.image = folder / "image.png"
        self.image.write_bytes(b"\x89PNG\r\n")
        self.watch = OpenedFiles(folder, self.adapter)

    @property
    def paths(self) -> list[str]:
        climbing = "../" * 12
        return [
            str(self.adapter),
            f"{climbing}{self.adapter}",
            f"file://{self.adapter}",
            f"expert-0@{climbing}{self.adapter}",
            f"expert-0/{climbing}{self.adapter}",
            f"{self.adapter}\0",
        ]


@pytest.fixture
def bait(bundle: Bundle, tmp_path: Path) -> Iterator[Bait]:
    laid = Bait(tmp_path, bundle)
    yield laid
    laid.watch.close()


@pytest.fixture(autouse=True)
def nothing_was_opened_or_loaded(bait: Bait, http: httpx.Client) -> Iterator[None]:
    def listed() -> list[str]:
        return [card["id"] for card in http.get("/v1/models?versions=true").json()["data"]]

    bait.template.read_text()
    assert bait.watch.names() == ["template.jinja"], "the watch sees nothing, so this test shows nothing"
    before = listed()
    yield
    assert bait.watch.names() == []
    assert listed() == before


def refused(answer: httpx.Response) -> None:
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_model_names_that_are_paths_or_ids(http: httpx.Client, bait: Bait) -> None:
    assert set(BODIES) == set(ENDPOINTS)
    ids = ["meta-llama/Llama-3.2-1B", "hf://org/adapter", "s3://bucket/adapter", "fallback", ".", "..", "~"]
    for path, body in BODIES.items():
        for model in (*bait.paths, *ids):
            refused(http.post(path, json=body | {"model": model}))
        for model in ({"path": str(bait.adapter)}, [str(bait.adapter)]):
            refused(http.post(path, json=body | {"model": model}))


def extras(bait: Bait) -> Iterator[dict[str, Any]]:
    adapter = str(bait.adapter)
    request = {"lora_name": "mine", "lora_path": adapter, "lora_int_id": 99}
    for name in (
        "lora_path",
        "lora_name",
        "lora",
        "adapter",
        "adapter_id",
        "adapter_path",
        "lora_local_path",
    ):
        yield {name: adapter}
    for name in (
        "lora_request",
        "lora_modules",
        "lora_resolver",
        "vllm_xargs",
        "extra_body",
        "kv_transfer_params",
    ):
        yield {name: request}
    yield {"adapter_source": "local", "adapter_id": adapter}
    yield {"tokenizer": adapter, "base_model": adapter, "root": adapter}
    yield {"chat_template": str(bait.template)}
    yield {"chat_template_kwargs": {"chat_template": str(bait.template), "lora_path": adapter}}
    yield {"mm_processor_kwargs": {"path": adapter}, "media_io_kwargs": {"image": {"path": adapter}}}
    yield {"prompt_embeds": str(bait.image)}
    yield {"documents": [{"path": str(bait.image)}], "file": str(bait.image)}
    yield {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": adapter}}}
    }
    yield {"structured_outputs": {"grammar": f'%import "{bait.template}"'}}
    yield {"cache_salt": adapter, "user": adapter, "request_id": adapter}


def test_fields_that_name_an_adapter_or_a_file(http: httpx.Client, bait: Bait, bundle: Bundle) -> None:
    """Ignored or refused: if there is an answer, one of the bundle's own gave it."""
    known = {record.engine_name for record in bundle.manifest.adapters}
    for path, body in BODIES.items():
        for extra in extras(bait):
            answer = http.post(path, json=body | extra)
            assert answer.status_code < 500, (path, extra, answer.text)
            if answer.status_code == 200:
                assert answer.json().get("model", next(iter(known))) in known, (path, extra)
                assert "caught" not in answer.text
            else:
                refused(answer)


@pytest.mark.parametrize("scheme", ["file://", ""])
def test_images_and_files_in_messages(http: httpx.Client, bait: Bait, scheme: str) -> None:
    url = f"{scheme}{bait.image}"
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "input_image", "image_url": url},
        {"type": "image", "source": {"type": "url", "url": url}},
        {"type": "audio_url", "audio_url": {"url": url}},
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "file", "file": {"file_id": url, "filename": url}},
        {"type": "input_file", "file_url": url},
        {"type": "document", "source": {"type": "url", "url": url}},
    ]
    for part in parts:
        messages = [{"role": "user", "content": [{"type": "text", "text": "hello"}, part]}]
        for path, field in (
            ("/v1/chat/completions", "messages"),
            ("/v1/messages", "messages"),
            ("/v1/responses", "input"),
        ):
            body = {field: messages, "max_tokens": 1, "max_output_tokens": 16}
            answer = http.post(path, json=body)
            assert answer.status_code < 500, (path, part, answer.text)


def test_the_routes_that_load_adapters_are_not_there(
    server: LiveServer, http: httpx.Client, bait: Bait
) -> None:
    body = json.dumps({"lora_name": "mine", "lora_path": str(bait.adapter)}).encode()
    ways = [
        "/v1/load_lora_adapter",
        "/v1/load_lora_adapter/",
        "//v1/load_lora_adapter",
        "/v1//load_lora_adapter",
        "/v1/completions/../load_lora_adapter",
        "/v1/%6coad_lora_adapter",
        "/v1/completions/%2e%2e/load_lora_adapter",
        "/v1/load_lora_adapter?model=auto",
        "/v1/load_lora_adapter%00",
        "/V1/LOAD_LORA_ADAPTER",
        "/v1/unload_lora_adapter",
        "/v1/completions;/v1/load_lora_adapter",
    ]
    for way in ways:  # byte for byte: a client library would tidy them up
        with socket.create_connection(("127.0.0.1", server.port), timeout=300) as wire:
            head = (
                f"POST {way} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
            )
            wire.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            first = wire.makefile("rb").readline()
        assert first.split()[1] in (b"404", b"400"), (way, first)


def test_headers_and_query_that_name_an_adapter(http: httpx.Client, bait: Bait, bundle: Bundle) -> None:
    adapter = str(bait.adapter)
    names = (
        "x-lora-adapter",
        "x-lora-path",
        "x-adapter-id",
        "x-model",
        "x-gradientspace-bundle",
        "x-request-id",
    )
    headers = dict.fromkeys((*names, "x-gradientspace-expert", "x-original-url", "x-rewrite-url"), adapter)
    query = {"model": adapter, "lora_path": adapter, "bundle": adapter}
    body = {"model": "expert-0", "prompt": "hello", "max_tokens": 1}
    answer = http.post("/v1/completions", json=body, headers=headers, params=query)
    assert answer.json()["model"] == bundle.manifest.experts[0].engine_name
    assert answer.headers["x-gradientspace-bundle"] == bundle.digest


def test_a_reload_takes_no_path_from_anywhere(http: httpx.Client, bait: Bait, bundle: Bundle) -> None:
    key = {"authorization": f"Bearer {ADMIN_KEY}"}
    adapter = str(bait.adapter)
    answer = http.post("/admin/reload", headers=key, params={"bundle": adapter, "path": adapter})
    assert answer.json()["bundle"] == bundle.digest
    refused(http.post("/admin/reload", headers=key, json={"bundle": adapter}))
    refused(http.post(f"/admin/reload/{adapter}", headers=key))
