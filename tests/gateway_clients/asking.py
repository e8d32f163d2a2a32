"""A chat as a plain client asks for it."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any


def ask(url: str, *, body: Mapping[str, Any], **fields: Any) -> Any:
    """Return the answer to a chat with these fields on top; a stream's as text.

    A refusal is raised with what the server said as a note.
    """
    sent = json.dumps({**body, **fields}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", sent, headers)
    try:
        with urllib.request.urlopen(request, timeout=100) as response:
            raw = response.read()
    except urllib.error.HTTPError as error:
        error.add_note(error.read().decode())
        raise
    return raw.decode() if fields.get("stream") else json.loads(raw)
