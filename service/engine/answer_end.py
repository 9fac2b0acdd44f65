"""Answers end where training ends them: vLLM's client, with the bundle's end of answer added to every request.

vLLM by itself stops at the base's own end-of-text token only. Every endpoint that generates comes through
`generate`, whatever it lets its clients set, and each loaded bundle has a client of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from bundle.manifest import AnswerEnd

if TYPE_CHECKING:
    from vllm import SamplingParams


def ending(client: Any, end: AnswerEnd | None) -> Any:
    """Return the client of one bundle: vLLM's own, where that stops by itself at what answers end with."""
    if end is None or (
        end.text is None and set(end.token_ids) == {client.renderer.get_tokenizer().eos_token_id}
    ):
        return client
    return EndingClient(client, end)


class EndingClient:
    """vLLM's client, but for where answers end."""

    def __init__(self, client: Any, end: AnswerEnd) -> None:
        """`client` is vLLM's."""
        self._client = client
        self._end = end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def generate(
        self, prompt: Any, sampling_params: SamplingParams, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Answer as vLLM does, and stop at what the bundle's answers end with besides what is asked for."""
        params = with_end(sampling_params, self._end)
        asked_for = {*_texts(sampling_params), *(sampling_params.stop_token_ids or ())}
        added = {*self._end.token_ids, self._end.text} - asked_for
        # Closed as soon as this is: that is what makes vLLM abort the request of a client who left.
        async with contextlib.aclosing(self._client.generate(prompt, params, *args, **kwargs)) as answers:
            async for answer in answers:
                for output in answer.outputs:
                    if output.stop_reason in added:
                        output.stop_reason = None  # a proper end, as at the base's own token
                yield answer


def with_end(params: SamplingParams, end: AnswerEnd) -> SamplingParams:
    """Return sampling parameters that also stop where an answer ends, unless the client wants to run past it."""
    params = params.clone()
    # vLLM's own way for a base with several such tokens; `min_tokens` and `ignore_eos` hold for them too.
    params.update_from_generation_config({"eos_token_id": list(end.token_ids)})
    if end.text is not None and params.detokenize and not params.ignore_eos:
        params.stop = [*_texts(params), end.text]
    return params


def _texts(params: SamplingParams) -> list[str]:
    stop = params.stop or []
    return [stop] if isinstance(stop, str) else list(stop)
