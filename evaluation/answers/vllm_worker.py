"""vLLM's offline engine in a process of its own: one base, asked line by line on standard input.

`python -m evaluation.answers.vllm_worker BASE --dtype float32 --max-rank 64` reads requests
`{"adapter": FOLDER or null, "prompts": [[ids]], "max_new_tokens": N, "ends": [ids]}` and answers `{"ids": [[...]]}`,
a line each.
It ends when its standard input does, so it can't outlive the run that asked for it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

_MAX_LORAS = 1  # at a time: every request is about one adapter


def main() -> None:
    """Serve requests until there are none."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("base")
    arguments.add_argument("--dtype", required=True)
    arguments.add_argument("--max-rank", type=int, required=True)
    given = arguments.parse_args()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever the engine prints is no answer
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.lora.request import LoRARequest

    engine = LLM(
        given.base,
        dtype=given.dtype,
        enable_lora=True,
        max_loras=_MAX_LORAS,
        max_lora_rank=given.max_rank,
        generation_config="vllm",
        kv_cache_memory_bytes=1 << 30,
        seed=0,
    )
    known: dict[str, Any] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        folder = asked["adapter"]
        if folder is not None and folder not in known:
            known[folder] = LoRARequest(f"adapter-{len(known) + 1}", len(known) + 1, folder)
        greedy = SamplingParams(
            temperature=0.0, max_tokens=asked["max_new_tokens"], stop_token_ids=asked["ends"]
        )
        done = engine.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids in asked["prompts"]],
            greedy,
            lora_request=known.get(folder) if folder is not None else None,
            use_tqdm=False,
        )
        answers.write(json.dumps({"ids": [list(one.outputs[0].token_ids) for one in done]}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
