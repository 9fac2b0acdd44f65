"""The official client, unchanged."""

from __future__ import annotations

import openai as sdk
import pytest
from openai import OpenAI

from bundle.manifest import Manifest


def test_chat(openai: OpenAI, manifest: Manifest, prompt_for: dict[str, str]) -> None:
    expert = manifest.experts[0]
    answer = openai.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": prompt_for[expert.name]}], max_tokens=8, n=2
    )
    assert answer.model == expert.engine_name
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert 2 <= answer.usage.completion_tokens <= 16


def test_a_chat_stream_has_its_headers_and_says_what_the_whole_answer_says(
    openai: OpenAI, manifest: Manifest, prompt_for: dict[str, str]
) -> None:
    expert = manifest.experts[-1]
    messages = [{"role": "user", "content": prompt_for[expert.name]}]
    asked = {"model": "auto", "messages": messages, "max_tokens": 12, "temperature": 0}
    whole = openai.chat.completions.create(**asked)
    raw = openai.chat.completions.with_raw_response.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(raw.parse())
    assert raw.headers["x-gradientspace-expert"] == expert.name
    assert raw.headers["x-gradientspace-reason"] == "routed"
    assert {chunk.model for chunk in chunks} == {expert.engine_name}
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == (
        whole.choices[0].message.content
    )
    assert chunks[-1].usage == whole.usage


def test_prompts_for_several_experts_come_back_in_order(
    openai: OpenAI, manifest: Manifest, prompt_for: dict[str, str]
) -> None:
    names = [*manifest.label_order, manifest.label_order[0]]
    prompts = [prompt_for[name] for name in names]
    asked = {"max_tokens": 6, "temperature": 0}
    raw = openai.completions.with_raw_response.create(model="auto", prompt=prompts, **asked)
    answer = raw.parse()
    assert raw.headers["x-gradientspace-expert"] == ",".join(names)
    assert raw.headers["x-gradientspace-reason"] == ",".join(["routed"] * len(names))
    assert [choice.index for choice in answer.choices] == list(range(len(names)))
    alone = [
        openai.completions.create(model=name, prompt=prompt, **asked)
        for name, prompt in zip(names, prompts, strict=True)
    ]
    assert [c.text for c in answer.choices] == [c.text for one in alone for c in one.choices]
    assert answer.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone)
    assert answer.usage.completion_tokens == sum(one.usage.completion_tokens for one in alone)
    assert answer.usage.total_tokens == sum(one.usage.total_tokens for one in alone)
    twice = openai.completions.create(model="auto", prompt=prompts, max_tokens=2, n=2)
    assert [choice.index for choice in twice.choices] == list(range(2 * len(names)))


def test_a_stream_of_prompts_for_several_experts_is_interleaved(
    openai: OpenAI, manifest: Manifest, prompt_for: dict[str, str]
) -> None:
    prompts = [prompt_for[name] for name in manifest.label_order]
    asked = {"model": "auto", "prompt": prompts, "max_tokens": 6, "temperature": 0}
    whole = openai.completions.create(**asked)
    stream = openai.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    texts = dict.fromkeys(range(len(prompts)), "")
    speakers: dict[int, set[str]] = {index: set() for index in texts}
    usages, ids = [], set()
    for chunk in stream:
        ids.add(chunk.id)
        if chunk.usage:
            usages.append(chunk.usage)
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            speakers[choice.index].add(chunk.model)
    assert list(texts.values()) == [choice.text for choice in whole.choices]
    assert list(speakers.values()) == [{expert.engine_name} for expert in manifest.experts]
    assert len(ids) == 1
    assert [usage.total_tokens for usage in usages] == [whole.usage.total_tokens]


def test_token_id_prompts_are_routed_on_their_text(
    openai: OpenAI, manifest: Manifest, prompt_for: dict[str, str]
) -> None:
    expert = manifest.experts[-1]
    text = prompt_for[expert.name]
    ids = openai.post("/../tokenize", body={"prompt": text}, cast_to=dict)["tokens"]
    by_ids = openai.completions.create(model="auto", prompt=ids, max_tokens=8, temperature=0)
    by_text = openai.completions.create(model="auto", prompt=text, max_tokens=8, temperature=0)
    assert by_ids.model == expert.engine_name
    assert by_ids.choices[0].text == by_text.choices[0].text


def test_an_unknown_model(openai: OpenAI) -> None:
    with pytest.raises(sdk.NotFoundError) as caught:
        openai.chat.completions.create(model="expert-99", messages=[{"role": "user", "content": "Hello"}])
    body = caught.value.body
    assert set(body) == {"message", "type", "param", "code"}
    assert (body["type"], body["param"], body["code"]) == ("NotFoundError", "model", 404)
    assert "expert-99" in body["message"]
    assert "auto" in body["message"]


def test_the_model_list(openai: OpenAI, manifest: Manifest) -> None:
    cards = {card.id: card for card in openai.models.list()}
    assert list(cards) == ["auto", manifest.base.name, *manifest.label_order]
    pins = [expert.engine_name for expert in manifest.experts]
    cards |= {card.id: card for card in openai.models.list(extra_query={"versions": "true"})}
    assert list(cards) == ["auto", manifest.base.name, *manifest.label_order, *pins]
    for name in (*manifest.label_order, *pins):
        assert cards[name].parent == manifest.base.name
    assert cards["auto"].parent is None
    assert "/" not in "".join(card.root for card in cards.values()).replace(manifest.base.name, "")
