"""Templates: package data rendered in a sandbox with the helpers that Hugging Face offers."""

import json
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any, NoReturn

from openzaya.core.errors import CheckpointError, DataError


class Template:
    """A compiled jinja template whose failures are ours to explain."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def render(self, **variables: object) -> str:
        """Return the text for these variables; DataError when the template cannot take them."""
        try:
            return str(self._compiled.render(**variables))
        except Exception as error:  # a template may call any method of what it is given
            raise DataError(
                f"the template refused the conversation: {error}; correct the messages or the "
                "tools, or use another template"
            ) from error


@cache
def pinned_source(name: str) -> str:
    """Return the text of a template that ships with openzaya."""
    return (files("openzaya.text") / "templates" / name).read_text(encoding="utf-8")


@cache
def compile_template(source: str) -> Template:
    """Compile a template in an immutable sandbox. Raises CheckpointError for a syntax error."""
    # Imported here: everything but rendering works on machines without jinja2.
    from jinja2 import TemplateSyntaxError, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Passes over the tags by which transformers finds what is trained: we find it without."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return Template(environment.from_string(source))
    except TemplateSyntaxError as error:
        raise CheckpointError(
            f"line {error.lineno} of the template is not jinja ({error.message}); expected a "
            "Hugging Face chat template: correct or remove chat_template.jinja"
        ) from error


def _to_json(value: object, ensure_ascii: bool = False, **options: Any) -> str:
    # Plain JSON: jinja's own filter escapes <, > and & for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
