"""A bundle behind one OpenAI-compatible port: vLLM embedded, every request sent to its expert.

A request walks `layers` (its id, its record, keys, the body's limit) -> `dispatch`, which asks `request` what it wants
and who answers -> `engine`, and its answer back through `dispatch.answer`. `serve.run` puts it all together; nothing
but `engine` knows vLLM.

Beside that way: `http_server` is the port, `routes` what we answer ourselves, `telemetry` what is counted, logged and
traced, `lifecycle` starting and stopping, `versions` the bundle that is served and the next one.
"""
