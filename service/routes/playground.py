"""`/`: the playground, one page for people. Its files are read once and found by name, never by path."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response

from service.errors import NotFoundError
from service.request.endpoints import PLAYGROUND

_PAGE = "index.html"
_FILES = {file.name: file.read_bytes() for file in (Path(__file__).parents[1] / "playground").iterdir()}
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # the page and its scripts change together
}

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def page() -> Response:
    """Return the page."""
    return _answer(_PAGE)


@router.api_route(PLAYGROUND + "{name}", methods=["GET", "HEAD"])
async def part(name: str) -> Response:
    """Return a script, the style or the icon.

    Raises:
        NotFoundError: the page has no such file.

    """
    if name == _PAGE or name not in _FILES:
        raise NotFoundError(f"{PLAYGROUND}{name} is not served here")
    return _answer(name)


def _answer(name: str) -> Response:
    return Response(_FILES[name], media_type=_TYPES[Path(name).suffix], headers=_HEADERS)
