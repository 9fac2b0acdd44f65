"""Routed, named, base: the right one answers, and what it says is what Transformers and PEFT say."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from bundle.manifest import Manifest
from bundle.read import Bundle

TOKENS = 24
FORCED = {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}


def chat(http: httpx.Client, model: str, prompt: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], **FORCED}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer


def said(answer: httpx.Response) -> str:
    return answer.json()["choices"][0]["message"]["content"]


def test_a_routed_request_is_answered_by_the_routed_expert_and_nobody_else(
    http: httpx.Client, manifest: Manifest, prompt_for: dict[str, str]
) -> None:
    for expert in manifest.experts:
        prompt = prompt_for[expert.name]
        routed = chat(http, "auto", prompt)
        assert routed.json()["model"] == expert.engine_name
        assert routed.headers["x-gradientspace-expert"] == expert.name
        assert routed.headers["x-gradientspace-reason"] == "routed"
        assert said(routed) == said(chat(http, expert.name, prompt))
        assert said(routed) != said(chat(http, manifest.base.name, prompt))


def test_no_model_at_all_is_routed(
    http: httpx.Client, manifest: Manifest, prompt_for: dict[str, str]
) -> None:
    expert = manifest.experts[-1]
    messages = [{"role": "user", "content": prompt_for[expert.name]}]
    answer = http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 1})
    assert answer.json()["model"] == expert.engine_name


def test_a_named_expert_answers_what_is_routed_elsewhere(
    http: httpx.Client, manifest: Manifest, prompt_for: dict[str, str]
) -> None:
    first, last = manifest.experts[0], manifest.experts[-1]
    for name in (first.name, first.engine_name):
        answer = chat(http, name, prompt_for[last.name])
        assert answer.json()["model"] == first.engine_name
        assert answer.headers["x-gradientspace-expert"] == first.name
        assert answer.headers["x-gradientspace-reason"] == "named"


def test_the_base_model_by_its_name(http: httpx.Client, manifest: Manifest) -> None:
    answer = chat(http, manifest.base.name, "Hello")
    assert answer.json()["model"] == manifest.base.name
    assert answer.headers["x-gradientspace-expert"] == manifest.base.name
    assert answer.headers["x-gradientspace-reason"] == "named"


def test_all_endpoints_route_the_same_words_to_the_same_expert(
    http: httpx.Client, bundle: Bundle, manifest: Manifest, base: Path, prompt_for: dict[str, str]
) -> None:
    expert = manifest.experts[-1]
    prompt = prompt_for[expert.name]
    messages = [{"role": "user", "content": prompt}]
    tokenizer = AutoTokenizer.from_pretrained(base)
    templated = tokenizer.apply_chat_template(
        messages,
        chat_template=bundle.chat_template.read_text(),
        add_generation_prompt=True,
        tokenize=False,
    )
    ids = tokenizer(templated, add_special_tokens=False)["input_ids"]
    parts = [{"role": "user", "content": [{"type": "input_text", "text": prompt}]}]
    requests = [
        ("/v1/completions", {"prompt": prompt, "max_tokens": 1}),
        ("/v1/completions", {"prompt": templated, "max_tokens": 1}),
        ("/v1/completions", {"prompt": ids, "max_tokens": 1}),
        ("/v1/responses", {"input": prompt, "max_output_tokens": 1}),
        ("/v1/responses", {"input": parts, "max_output_tokens": 1}),
        ("/v1/messages", {"messages": messages, "max_tokens": 1}),
        ("/v1/messages/count_tokens", {"messages": messages}),
        ("/tokenize", {"messages": messages}),
        ("/tokenize", {"prompt": prompt}),
        ("/detokenize", {"tokens": ids}),
    ]
    for path, body in requests:
        answer = http.post(path, json=body)
        assert answer.status_code == 200, (path, answer.text)
        assert answer.headers["x-gradientspace-expert"] == expert.name, (path, body)
        confidence = answer.headers["x-gradientspace-confidence"]
        expected = http.post("/v1/route", json={"input": prompt}).json()["data"][0]["confidence"]
        assert float(confidence) == pytest.approx(expected, abs=1e-3), (path, body)


def greedy(model: torch.nn.Module, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])  # [1, T]
    with torch.inference_mode():
        for _ in range(TOKENS):
            best = model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)  # [1, 1]
            ids = torch.cat([ids, best], dim=1)
    return ids[0, len(prompt) :].tolist()


def test_greedy_tokens_of_base_and_every_expert_equal_those_of_transformers_and_peft(
    http: httpx.Client, bundle: Bundle, manifest: Manifest, base: Path
) -> None:
    prompts = []
    for expert in manifest.experts:
        messages = [{"role": "user", "content": " ".join(expert.top_terms)}]
        prompts.append(http.post("/tokenize", json={"messages": messages}).json()["tokens"])
    dtype = getattr(torch, manifest.base.dtype)
    folders = {manifest.base.name: None}
    folders |= {e.name: bundle.expert_folder(label) for label, e in enumerate(manifest.experts)}
    answers = set()
    for name, folder in folders.items():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        if folder is not None:
            model = PeftModel.from_pretrained(model, folder)
        expected = [greedy(model.eval(), prompt) for prompt in prompts]
        body = {"model": name, "prompt": prompts, "return_token_ids": True, **FORCED}
        served = http.post("/v1/completions", json=body).json()["choices"]
        assert [choice["token_ids"] for choice in served] == expected, name
        answers.add(str(expected))
    assert len(answers) == len(folders), "two of them say the same: this shows nothing"


def test_the_served_template_is_the_bundles_with_one_bos(
    http: httpx.Client, bundle: Bundle, base: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello you"},
        {"role": "user", "content": "What is 2 + 2?"},
    ]
    expected = tokenizer.apply_chat_template(
        messages, chat_template=bundle.chat_template.read_text(), add_generation_prompt=True, tokenize=True
    )["input_ids"]
    served = http.post("/tokenize", json={"messages": messages}).json()["tokens"]
    assert served == expected
    assert served.count(tokenizer.bos_token_id) == 1
