"""The page: one self-contained document, joined from the files beside this one.

Nothing is built and nothing is loaded from elsewhere. Style and script stand in the document, so
its policy names their hashes and allows no other.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
TEMML = FOLDER / "temml"
"""The library for formulas as its author published it, and its licence."""
CONTENT_TYPE = "text/html; charset=utf-8"

STYLES = ("theme.css", "views.css", "typeset.css", "graph.css", "media.css")
"""In the order in which they are joined."""
SCRIPTS = (
    "dom.js",
    "formulas.js",
    "inline.js",
    "markdown.js",
    "classes.js",
    "api.js",
    "model.js",
    "lineage.js",
    "answers.js",
    "timeline.js",
    "budget.js",
    "drawer.js",
    "run_parts.js",
    "run_view.js",
    "ask.js",
    "runs.js",
    "compare.js",
    "main.js",
)
"""In the order in which they are joined; all share one scope."""


def page() -> bytes:
    """Return the document that the gateway serves at `/`, in UTF-8."""
    return _page()


@cache
def page_gzip() -> bytes:
    """Return `page` compressed with gzip, a third of its size."""
    return gzip.compress(page(), mtime=0)


def content_security_policy() -> str:
    """Return the value of the header Content-Security-Policy for `page`.

    The document repeats it in a `meta` element, but for `frame-ancestors`, which only a header
    can set.
    """
    return f"{_policy('self')}; frame-ancestors 'none'"


def style_sha256() -> str:
    """Return the hash of the page's only style, as a policy names it."""
    return _source_hash(_style())


def script_sha256() -> str:
    """Return the hash of the page's only script, as a policy names it."""
    return _source_hash(_script())


def standalone(run_detail: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the page with one run inside: a file that needs no server and talks to none.

    `run_detail` is the journal's RunDetail, `candidates` its CandidateDetails in any order, both
    JSON-compatible. Raises TypeError or ValueError for values that JSON does not have.
    """
    data = json.dumps({"run": run_detail, "candidates": list(candidates)}, allow_nan=False)
    # In a script element only "<" can end the data or open a comment; JSON knows it escaped.
    return _document("none", data.replace("<", "\\u003c")).encode()


@cache
def _page() -> bytes:
    return _document("self", "null").encode()


def _document(reach: str, data: str) -> str:
    parts = {
        "policy": _policy(reach),
        "style": _style(),
        "script": _script(),
        "recorded": data,
    }
    text = (FOLDER / "index.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        before, mark, after = text.partition(f"[[{name}]]")
        assert mark, name
        text = before + part + after
    return text


def _policy(reach: str) -> str:
    """Return the policy of a page that may talk to `reach`: "self" or "none"."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{script_sha256()}'",
            f"style-src '{style_sha256()}'",
            f"connect-src '{reach}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


@cache
def _style() -> str:
    return _joined(STYLES)


@cache
def _script() -> str:
    return f'(() => {{\n"use strict";\n{_joined(SCRIPTS)}\n{_temml()}}})();\n'


def _temml() -> str:
    """Return Temml as a function: a page without formulas does not run it.

    Its licence goes where it goes, also into the files of `standalone`.
    """
    terms, code = (
        (TEMML / name).read_text(encoding="utf-8") for name in ("LICENSE", "temml.min.js")
    )
    return f"/*\nTemml\n\n{terms}*/\nfunction loadTemml() {{\n{code}\nreturn temml;\n}}\n"


def _joined(names: Sequence[str]) -> str:
    return "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in names)


def _source_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
