"""Every route of vLLM's app that clients are not to reach, by path. A new one has to be put here, or into
`service.request.endpoints`, by somebody who looked at it."""

from __future__ import annotations

REFUSED = {
    # answered by routes of ours
    "/health",
    "/metrics",
    "/openapi.json",
    "/v1/models",
    # they would pass by the dispatch, or pick a model by other rules
    "/generative_scoring",
    "/inference/v1/generate",
    "/invocations",
    "/v1/chat/completions/batch",
    "/v1/responses/{response_id}",
    "/v1/responses/{response_id}/cancel",
    "/v1/systemone",
    # rendering without an answer, for engines that run apart
    "/v1/chat/completions/derender",
    "/v1/chat/completions/render",
    "/v1/completions/derender",
    "/v1/completions/render",
    "/v1/messages/render",
    "/v1/responses/render",
    # the operator's business
    "/docs",
    "/docs/oauth2-redirect",
    "/inference/v1/abort_requests",
    "/is_scaling_elastic_ep",
    "/kv_event_sources",
    "/load",
    "/ping",
    "/redoc",
    "/scale_elastic_ep",
    "/version",
}
