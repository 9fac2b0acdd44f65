"""Where vLLM's interfaces differ from one another without meaning to: made the same before its app is built."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any


def make_alike() -> None:
    """Change vLLM's serving classes for this process; once, however often it is called.

    - `/v1/responses` adds no second BOS: the chat template has written what begins a prompt.
    - `/v1/messages/count_tokens` counts what no answer would fit behind, too.
    - `/v1/messages` says which field is wrong, and a mistake is no failure: not in its log, nor in its streams.
    """
    from vllm.entrypoints.anthropic import api_router
    from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.serve.exception_handling.error_response import create_error_response

    serving: Any = AnthropicServingMessages
    if getattr(serving, "made_alike", False):
        return
    serving.made_alike = True
    responses: Any = ResponsesRequest
    of_responses = responses.build_tok_params

    def build_tok_params(self: Any, model_config: Any) -> Any:
        return replace(of_responses(self, model_config), add_special_tokens=False)

    responses.build_tok_params = build_tok_params

    class Counted(ChatCompletionRequest):
        def build_tok_params(self, model_config: Any) -> Any:
            return replace(super().build_tok_params(model_config), max_total_tokens=None)

    base_request = serving._build_base_request.__func__

    def build_base_request(cls: Any, request: Any, messages: list[dict[str, Any]]) -> Any:
        if isinstance(request, AnthropicCountTokensRequest):
            kwargs = request.chat_template_kwargs
            given = {"model": request.model, "messages": messages, "chat_template_kwargs": kwargs}
            return Counted.model_validate(given)
        return base_request(cls, request, messages)

    serving._build_base_request = classmethod(build_base_request)

    def answering_mistakes(method: Any) -> Any:
        async def answering(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return await method(self, *args, **kwargs)
            except Exception as error:
                answer = create_error_response(error)
                if answer.error.code < 500:
                    return answer
                raise

        return answering

    for name in ("create_messages", "count_tokens"):
        setattr(serving, name, answering_mistakes(getattr(serving, name)))

    def translate(response: Any) -> Any:
        body = {"type": "error", "error": response.error.model_dump()}
        return api_router.JSONResponse(body, response.error.code)

    api_router.translate_error_response = translate

    convert = serving.message_stream_converter

    async def message_stream_converter(self: Any, generator: AsyncIterator[str]) -> AsyncIterator[str]:
        """As vLLM's, but for error events, which it takes for chunks that it can't read."""
        failed: list[str] = []

        async def until_error() -> AsyncIterator[str]:
            async for event in generator:
                if event.startswith('data: {"error"'):
                    failed.append(event)
                    return
                yield event

        async for event in convert(self, until_error()):
            if not failed:
                yield event
        if failed:
            error = json.loads(failed[0].splitlines()[0].removeprefix("data: "))
            yield f"event: error\ndata: {json.dumps({'type': 'error'} | error)}\n\n"

    serving.message_stream_converter = message_stream_converter
