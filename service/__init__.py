"""A bundle behind one OpenAI-compatible port: vLLM embedded, every request sent to its expert.

A request walks `identity` -> `dispatch` (`allowlist`, `request_text`, `decision`) -> vLLM -> `answer`.
`serve.run` puts it all together; `engine_args` and `engine` are all that knows vLLM.
"""
