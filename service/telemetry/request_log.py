"""One line per request: who answered, why, how long, how many tokens. Never what was asked or answered."""

from __future__ import annotations

import logging
from typing import Any

from service import logs
from service.telemetry.record import RequestRecord

_log = logging.getLogger(logs.REQUESTS)
_PATH_CHARACTERS = 200  # ours: a path that is not served can be as long as a client likes


def log_request(record: RequestRecord) -> None:
    """Log a request that has ended: a sentence as text, the same facts as fields in JSON."""
    if _log.isEnabledFor(logging.INFO):
        facts = request_facts(record)
        _log.info("%s", _sentence(facts), extra={"fields": facts})


def request_facts(record: RequestRecord) -> dict[str, Any]:
    """Return what is known of a request; a field that does not apply to it is left out.

    Of a list of prompts `expert` and `reason` name each that occurs once, and `confidence` is the lowest.
    """
    facts: dict[str, Any] = {
        "request_id": record.request_id,
        "method": record.method,
        "path": ascii(record.path[:_PATH_CHARACTERS])[1:-1],  # no line can be forged with a line break
        "status": int(record.code),
        "duration_ms": _ms(record.ended - record.started),
    }
    if record.decided is not None:
        decisions = record.decided.decisions
        facts |= {
            "expert": ",".join(dict.fromkeys(decision.target.name for decision in decisions)),
            "model": ",".join(dict.fromkeys(decision.target.engine_name for decision in decisions)),
            "reason": ",".join(dict.fromkeys(decision.reason for decision in decisions)),
            "confidence": round(min(decision.confidence for decision in decisions), 4),
            "prompts": len(decisions),
            "router_ms": _ms(record.decided.router_seconds),
        }
    first = [g.first_token_seconds for g in record.generations if g.first_token_seconds is not None]
    if first:
        facts["first_token_ms"] = _ms(min(first))
    usage = record.usage
    if usage is not None:
        facts |= {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion}
    if record.span is not None:
        facts |= {"trace_id": record.span.trace_id, "span_id": record.span.span_id}
    return facts


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)


def _sentence(facts: dict[str, Any]) -> str:
    parts = [f"{facts['method']} {facts['path']} {facts['status']}"]
    if "expert" in facts:
        parts.append(f"{facts['expert']} ({facts['reason']} {facts['confidence']:.2f})")
    parts.append(f"{facts['duration_ms']:.0f} ms")
    if facts.get("router_ms"):
        parts.append(f"router {facts['router_ms']:.1f} ms")
    if "first_token_ms" in facts:
        parts.append(f"first token {facts['first_token_ms']:.0f} ms")
    if "prompt_tokens" in facts:
        parts.append(f"{facts['prompt_tokens']}+{facts['completion_tokens']} tokens")
    return ", ".join(parts) + f" [{facts['request_id']}]"
