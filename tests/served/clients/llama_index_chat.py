"""LlamaIndex's OpenAILike: completion, chat of several turns, streams, a structured answer."""

import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

URL, BASE = sys.argv[1:]
ASKED = "What is the capital of France?"

llm = OpenAILike(model="auto", api_base=f"{URL}/v1", api_key="none", is_chat_model=True, context_window=1024)
assert llm.complete(ASKED).text
turns = [ChatMessage(role="user", content=ASKED)]
first = llm.chat(turns).message
assert first.content
assert llm.chat([*turns, first, ChatMessage(role="user", content="And of Italy?")]).message.content
assert "".join(piece.delta or "" for piece in llm.stream_chat(turns)).strip()
plain = OpenAILike(model=BASE, api_base=f"{URL}/v1", api_key="none", is_chat_model=False, max_tokens=16)
assert plain.complete("The capital of France is").text
assert "".join(piece.delta or "" for piece in plain.stream_complete("The capital of France is"))
