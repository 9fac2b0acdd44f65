"""Does the engine compute what training did? Asked before anybody is served by a bundle."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bundle.errors import BundleError
from bundle.fingerprints import (
    BASE,
    FINGERPRINTS_FILE,
    TOP_TOKENS,
    Fingerprint,
    Fingerprints,
    FixedPrompt,
    TopTokens,
    distance,
    tolerance,
)
from bundle.read import Bundle
from service.engine.engine import LoadedBundle, RunningEngine

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest


async def check_fingerprints(engine: RunningEngine, loaded: LoadedBundle, bundle: Bundle) -> float:
    """Have the base and every adapter answer the fixed prompts, and compare with the bundle's record.

    Returns the largest distance to the record, in nats.

    Raises:
        BundleError: one of them is further from its record than the tolerance, the tokenizer is another, or an answer
            does not end where it ended in training.

    """
    record = bundle.fingerprints
    _check_tokenizer(engine, record)
    adapters = {adapter.name: loaded.adapters[adapter.engine_name] for adapter in bundle.manifest.adapters}
    measured = await measure(engine, record.prompts, adapters)
    farthest = compare(record, measured, bundle.manifest.base.dtype)
    await _check_ends(engine.max_model_len, loaded, bundle)
    return farthest


async def measure(
    engine: RunningEngine, prompts: tuple[FixedPrompt, ...], adapters: Mapping[str, LoRARequest]
) -> dict[str, Fingerprint]:
    """Return the fingerprints of the engine's base and of these adapters, by name."""
    asked: dict[str, LoRARequest | None] = {BASE: None, **adapters}
    entries: dict[str, list[TopTokens]] = {name: [] for name in asked}
    for prompt in prompts:
        answers = await asyncio.gather(*(_top_tokens(engine, prompt, adapter) for adapter in asked.values()))
        for name, answer in zip(asked, answers, strict=True):
            entries[name].append(answer)
    return {name: tuple(answers) for name, answers in entries.items()}


def compare(record: Fingerprints, measured: Mapping[str, Fingerprint], dtype: str) -> float:
    """Return the largest distance between the record and what was measured, in nats.

    If it is within the tolerance, every pair that the record tells apart is told apart here too: such a pair
    is three tolerances apart in the record, and each of the two may have moved by one.

    Raises:
        BundleError: it is above the tolerance.

    """
    limit = tolerance(dtype)
    farthest = 0.0
    for name, recorded in record.all.items():  # the base comes first: with a wrong one all are wrong
        off = distance(recorded, measured[name])
        if not off <= limit:  # an engine that says NaN is as far away as can be
            raise _refusal(
                name,
                f"{name} is {off:.3g} nats away from its fingerprint, {limit:g} are allowed"
                f"{_whom_it_resembles(name, measured[name], record, limit)}",
            )
        farthest = max(farthest, off)
    return farthest


def _whom_it_resembles(name: str, found: Fingerprint, record: Fingerprints, limit: float) -> str:
    distances = {other: distance(found, known) for other, known in record.all.items() if other != name}
    nearest = min(distances, key=lambda other: distances[other])
    if distances[nearest] > limit:
        return ""
    if nearest == BASE:
        return "; it says what the base model says, so the adapter does nothing"
    return f"; it says what {nearest} should say ({distances[nearest]:.3g} nats), as if they were swapped"


def _refusal(name: str, problem: str) -> BundleError:
    if name == BASE:
        field = "base"
        remedy = "Give the base model that the bundle was trained on"
    else:
        field = f"adapters.{name}"
        remedy = "Copy the bundle again from where it was made, or train it again"
    return BundleError(FINGERPRINTS_FILE, field, problem, remedy)


def _check_tokenizer(engine: RunningEngine, record: Fingerprints) -> None:
    tokenizer = engine.tokenizer
    for number, prompt in enumerate(record.prompts):
        if tuple(tokenizer.encode(prompt.text, add_special_tokens=False)) != prompt.token_ids:
            raise BundleError(
                FINGERPRINTS_FILE,
                f"prompts.{number}.token_ids",
                "the base model's tokenizer makes other tokens of this prompt than in training",
                "Give the base model that the bundle was trained on, with its tokenizer files",
            )


async def _check_ends(longest: int, loaded: LoadedBundle, bundle: Bundle) -> None:
    """Have every adapter go on from where its recorded answer is about to end."""
    from vllm import SamplingParams

    record, end = bundle.fingerprints, bundle.manifest.answer_end
    for adapter in bundle.manifest.adapters:
        recorded = record.answers.get(adapter.name)
        if recorded is None:
            continue
        prompt = record.prompts[recorded.prompt]
        rest = recorded.token_ids[recorded.shown :]
        # What is shown is given, not generated: a rounding there would lead to another answer, and it is the end that
        # is asked for.
        ids = [*prompt.token_ids, *recorded.token_ids[: recorded.shown]]
        if len(ids) + len(rest) >= longest:
            continue
        asked = SamplingParams(max_tokens=len(rest) + 1, temperature=0, skip_special_tokens=False)
        output = await _last(loaded.client, ids, asked, loaded.adapters[adapter.engine_name])
        still_shown = end is not None and end.text is not None and end.text in output.text
        if output.finish_reason != "stop" or still_shown:
            raise BundleError(
                FINGERPRINTS_FILE,
                f"answers.{adapter.name}",
                f"its answer to {prompt.text.strip()[-60:]!r} goes on in the engine where training's ends",
                "Copy the bundle again from where it was made, or make it again",
            )


async def _last(client: Any, ids: list[int], asked: SamplingParams, adapter: LoRARequest | None) -> Any:
    """Return what the engine has generated after these tokens when it is done."""
    name = f"fingerprint-{uuid.uuid4().hex}"
    final = None
    async for answer in client.generate({"prompt_token_ids": ids}, asked, name, lora_request=adapter):
        final = answer
    assert final is not None, "the engine ended the answer before it began"
    return final.outputs[0]


async def _top_tokens(engine: RunningEngine, prompt: FixedPrompt, adapter: LoRARequest | None) -> TopTokens:
    from vllm import SamplingParams

    asked = SamplingParams(max_tokens=1, temperature=1.0, logprobs=TOP_TOKENS, skip_reading_prefix_cache=True)
    output = await _last(engine.client, list(prompt.token_ids), asked, adapter)
    # The sampled token comes along even if it is not among the top.
    top = sorted(output.logprobs[0].items(), key=lambda entry: -entry[1].logprob)[:TOP_TOKENS]
    return TopTokens(
        token_ids=tuple(token for token, _ in top), logprobs=tuple(entry.logprob for _, entry in top)
    )
