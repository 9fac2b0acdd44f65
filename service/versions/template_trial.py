"""A chat template is a program, and one that never ends would freeze the service: it is tried in a process first."""

from __future__ import annotations

import json
import subprocess
import sys

from bundle.errors import BundleError
from bundle.manifest import CHAT_TEMPLATE_FILE
from bundle.read import Bundle
from router.text import PromptReader

TRIAL_SECONDS = 20.0
"""ours: the process itself takes one or two to begin."""


def try_template(bundle: Bundle, bos_token: str | None, eos_token: str | None) -> None:
    """Render the conversations that a version renders when it is made, where they can be ended from outside.

    Raises:
        BundleError: the template did not end in time.

    """
    asked = json.dumps([bundle.chat_template.read_text(encoding="utf-8"), bos_token, eos_token])
    try:
        subprocess.run(
            [sys.executable, "-m", __name__],
            input=asked,
            text=True,
            timeout=TRIAL_SECONDS,
            check=False,  # what it raises, the version meets and says
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise BundleError(
            CHAT_TEMPLATE_FILE,
            "",
            f"a conversation was not rendered within {TRIAL_SECONDS:g} seconds",
            "Give a chat template that ends",
        ) from error


if __name__ == "__main__":
    PromptReader(*json.loads(sys.stdin.read()))
