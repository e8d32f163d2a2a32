"""The document is whole without a browser: policy, hashes, embedded runs."""

import base64
import hashlib
import json
import re

import pytest

from openzaya.serve.web import TEMML, content_security_policy, page, standalone

PUBLISHED = "1ab19148afe0dbc836b7a74f344071b3f3a70a7a8259ae4049e76894fcdf8d95"
"""SHA-256 of temml.min.js in Temml 0.13.5 as npm has it."""
HOSTILE = "</script><script>alert(1)</script><!--<script>\u2028 ]]>"


def blocks(document: bytes, tag: str) -> list[str]:
    """Return the contents of the elements that a policy checks."""
    return re.findall(rf"<{tag}>(.*?)</{tag}>", document.decode(), re.DOTALL)


@pytest.mark.parametrize("tag", ["style", "script"])
def test_the_policy_allows_the_only_block_of_its_kind_by_hash(tag):
    (block,) = blocks(page(), tag)
    digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
    assert f"{tag}-src 'sha256-{digest}'" in content_security_policy()
    assert "unsafe" not in content_security_policy()


def test_the_document_repeats_the_policy_and_only_the_header_forbids_frames():
    repeated = re.search(r'Content-Security-Policy" content="([^"]*)"', page().decode())[1]
    assert content_security_policy() == f"{repeated}; frame-ancestors 'none'"


def test_nothing_is_loaded_from_elsewhere():
    text = page().decode()
    outside = [url for url in re.findall(r"https?://[^\s'\"]+", text) if "www.w3.org" not in url]
    assert outside == []
    assert re.findall(r"<(?:link|img|iframe|script)[^>]* (?:href|src)=\"(?!data:)", text) == []
    assert "@import" not in text
    assert "innerHTML" not in text


def test_a_run_inside_the_page_cannot_leave_its_element():
    document = standalone({"question": HOSTILE}, [{"text": HOSTILE}])
    told = re.search(r'id="recorded">(.*?)</script>', document.decode(), re.DOTALL)[1]
    assert "<" not in told
    assert json.loads(told) == {"run": {"question": HOSTILE}, "candidates": [{"text": HOSTILE}]}
    assert blocks(document, "script") == blocks(page(), "script")


def test_a_page_with_a_run_inside_talks_to_nobody():
    assert "connect-src 'none'" in standalone({}, []).decode()
    assert "connect-src 'self'" in page().decode()


def test_marks_inside_a_run_are_not_taken_for_ours():
    document = standalone({"question": "[[script]] [[style]]"}, []).decode()
    assert '"[[script]] [[style]]"' in document


def test_temml_is_as_published_and_its_licence_goes_where_it_goes():
    code = (TEMML / "temml.min.js").read_bytes()
    assert hashlib.sha256(code).hexdigest() == PUBLISHED
    terms = (TEMML / "LICENSE").read_bytes()
    assert b"Copyright (c) 2020 Ron Kok" in terms
    for document in (page(), standalone({}, [])):
        (script,) = blocks(document, "script")
        before, _, after = script.encode().partition(code)
        assert terms in before
        assert after.startswith(b"\nreturn temml;")
