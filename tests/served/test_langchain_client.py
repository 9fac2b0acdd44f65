"""LangChain's ChatOpenAI, unchanged, against the service."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from bundle.manifest import Manifest
from tests.stand_ins.live_server import LiveServer

pytestmark = pytest.mark.slow  # another house's wrapper around the client that test_openai_client uses


class Verdict(BaseModel):
    """A judgement."""

    certain: bool


@pytest.fixture(scope="module")
def chat_openai(server: LiveServer) -> Any:
    def made(**more: Any) -> ChatOpenAI:
        settings = {"model": "auto", "temperature": 0, "max_tokens": 12} | more
        return ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, **settings)

    return made


def test_invoke_and_stream(chat_openai: Any, manifest: Manifest, prompt_for: dict[str, str]) -> None:
    for expert in manifest.experts:
        chat = chat_openai()
        whole = chat.invoke(prompt_for[expert.name])
        assert whole.response_metadata["model_name"] == expert.engine_name
        chunks = list(chat.stream(prompt_for[expert.name], stream_usage=True))
        assert "".join(chunk.content for chunk in chunks) == whole.content
        used = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
        assert used[-1]["output_tokens"] == whole.usage_metadata["output_tokens"]


async def test_a_batch_goes_to_several_experts(
    chat_openai: Any, manifest: Manifest, prompt_for: dict[str, str]
) -> None:
    answers = await chat_openai().abatch([prompt_for[name] for name in manifest.label_order])
    speakers = [answer.response_metadata["model_name"] for answer in answers]
    assert speakers == [expert.engine_name for expert in manifest.experts]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(
    chat_openai: Any, manifest: Manifest, prompt_for: dict[str, str], method: str, no_blanks: Any
) -> None:
    expert = manifest.experts[0]
    chat = chat_openai(max_tokens=160, logit_bias=no_blanks)
    judge = chat.with_structured_output(Verdict, method=method, include_raw=True, strict=True)
    answer = judge.invoke(prompt_for[expert.name])
    assert isinstance(answer["parsed"], Verdict)
    assert answer["raw"].response_metadata["model_name"] == expert.engine_name


def test_the_responses_api(chat_openai: Any, manifest: Manifest, prompt_for: dict[str, str]) -> None:
    expert = manifest.experts[-1]
    chat = chat_openai(use_responses_api=True, max_tokens=16)
    answer = chat.invoke(prompt_for[expert.name])
    assert answer.response_metadata["model_name"] == expert.engine_name
