"""What a server's log says, and what it never says."""

import asyncio
import json
import logging

import pytest

from openzaya.serve.logs import JsonLines, TextLines, log_to_stderr

SECRET = "the prompt of a client"


def failing(text):
    raise ValueError(text)


def said(capsys, form, write):
    with log_to_stderr(form):
        write()
    return capsys.readouterr().err


def test_a_line_of_json_holds_what_the_record_was_given(capsys):
    log = logging.getLogger("openzaya.gateway")
    line = said(
        capsys, "json", lambda: log.info("run %s", "ended", extra={"run": "a", "tokens": 7})
    )
    told = json.loads(line)
    assert told.pop("time").endswith("Z")
    assert told == {
        "level": "info",
        "logger": "openzaya.gateway",
        "message": "run ended",
        "run": "a",
        "tokens": 7,
    }
    text = said(capsys, "text", lambda: log.info("run ended", extra={"run": "a", "tokens": 7}))
    assert text.endswith("Z INFO run ended run='a' tokens=7\n")


def test_other_packages_are_heard_from_warnings_on_only(capsys):
    other = logging.getLogger("somebody.else")
    assert said(capsys, "json", lambda: other.info("chatter")) == ""
    assert json.loads(said(capsys, "json", lambda: other.warning("hot")))["message"] == "hot"


@pytest.mark.parametrize("form", [JsonLines, TextLines])
def test_of_an_exception_the_type_and_the_place_are_told_and_no_words(form):
    try:
        failing(SECRET)
    except ValueError as error:
        found = (type(error), error, error.__traceback__)
        record = logging.LogRecord("x", logging.ERROR, "", 0, "it failed", (), found)
    line = form().format(record)
    assert SECRET not in line
    assert "ValueError" in line
    assert "test_logs.py" in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_asyncio_says_of_a_lost_exception_holds_nothing_of_it(capsys, form):
    async def main():
        async def work():
            failing(SECRET)

        task = asyncio.create_task(work())
        await asyncio.wait([task])
        del task
        asyncio.get_running_loop().call_soon(failing, SECRET)
        await asyncio.sleep(0.01)

    text = said(capsys, form, lambda: asyncio.run(main()))
    assert "Task exception was never retrieved" in text
    assert "Exception in callback" in text
    assert SECRET not in text


def test_a_server_that_has_ended_leaves_the_loggers_as_they_were(capsys):
    """Its stderr may be gone by then: a test's, for one."""
    names = ("", "openzaya", "uvicorn")
    before = [(logging.getLogger(name).level, logging.getLogger(name).handlers) for name in names]
    with pytest.raises(ZeroDivisionError), log_to_stderr("text"):
        raise ZeroDivisionError
    after = [(logging.getLogger(name).level, logging.getLogger(name).handlers) for name in names]
    assert after == before
    logging.getLogger("openzaya").error("later")
    assert capsys.readouterr().err == ""
