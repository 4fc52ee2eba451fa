"""What chat templates find around them: a sandbox, and the filters, functions and blocks that transformers gives them.

Source: the interface of transformers' apply_chat_template, as its documentation for writers of templates has it.
"""

import json
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

OTHER_CALLS = ("<function=", "<arg_key>", "[TOOL_CALLS]", "<|tool_call>")
"""What templates show whose models call tools in a form of their own (Qwen3.5, GLM, Mistral, Gemma 4)."""


def template_environment() -> ImmutableSandboxedEnvironment:
    """A sandbox in which published templates run as they do in transformers."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationBlock]
    )
    environment.filters["tojson"] = _plain_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    return environment


def asks_for_tools(source: str) -> bool:
    """Whether a template lays out the tools that it is given, with calls as JSON in the tags that the agent reads.

    One that wants calls in another form is not asked: the agent explains its own. Raises TemplateError when it is no
    template.
    """
    lays_out = "tools" in meta.find_undeclared_variables(template_environment().parse(source))
    return lays_out and "<tool_call>" in source and not any(mark in source for mark in OTHER_CALLS)


class GenerationBlock(Extension):
    """``{% generation %}...{% endgeneration %}``: what stands inside is written as it is.

    Templates mark there what the assistant says; a transcript knows that from who wrote it.
    """

    tags = {"generation"}  # noqa: RUF012 - jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        """The block's body, with names of its own."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _plain_json(value: Any, ensure_ascii: bool = False, **settings: Any) -> str:
    """Jinja's own filter writes for HTML, with < and > as escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **settings)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
