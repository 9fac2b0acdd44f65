"""Prompts that are too long: counted by the engine as it reads them, and said as clients recognise it.

vLLM stops counting one token beyond its limit, and blames `max_tokens` for a prompt that leaves no room for an answer.
"""

from __future__ import annotations

from typing import Any

from service.errors import CONTEXT_LENGTH, ContextLengthError


def bound_prompts(prompt_tokens: int | None) -> None:
    """Have vLLM refuse prompts that leave no room for an answer, or have more than `prompt_tokens` tokens.

    What only counts tokens (`/tokenize`, `count_tokens`) has no limit. The sentence holds both counts, in the words
    that OpenAI's, Anthropic's and others' clients look for.
    """
    from vllm.exceptions import VLLMValidationError
    from vllm.renderers.params import TokenizeParams

    def limit(params: Any) -> int | None:
        if params.max_total_tokens is None:
            return None
        room = params.max_total_tokens - 1  # an answer has one token at least
        return room if prompt_tokens is None else min(room, prompt_tokens)

    def too_long(params: Any, count: str) -> VLLMValidationError:
        sentence = ContextLengthError.sentence(count, limit(params) or 0, params.max_total_tokens)
        return VLLMValidationError(sentence, parameter=CONTEXT_LENGTH)

    def check_text(self: Any, tokenizer: Any, text: str) -> str:
        most = limit(self)
        if most is None or tokenizer is None:
            return text
        longest = tokenizer.max_chars_per_token
        if self.truncate_prompt_tokens is None and len(text) > (most + 1) * longest:
            raise too_long(self, f"at least {-(-len(text) // longest)}")
        return str(text_check(self, tokenizer, text)) if self.truncate_prompt_tokens is not None else text

    def check_tokens(self: Any, tokenizer: Any, tokens: Any) -> Any:
        most = limit(self)
        if most is not None and len(tokens) > most:
            raise too_long(self, str(len(tokens)))
        return tokens

    def encoding(self: Any) -> dict[str, Any]:
        if self.truncate_prompt_tokens is None:  # count all of it: `check_text` bounds how much that can be
            return {"truncation": False, "add_special_tokens": self.add_special_tokens}
        return dict(encode(self))

    patched: Any = TokenizeParams
    text_check, encode = patched._text_len_check, patched.get_encode_kwargs
    patched._text_len_check = check_text
    patched._token_len_check = check_tokens
    patched.get_encode_kwargs = encoding
    patched.max_truncation_tokens = property(limit)
