"""A model behind an address: a server that speaks OpenAI's protocol."""

import os

from foveate.errors import ModelError, named_line
from foveate.extras import from_extra
from foveate.models.chat_model import ChatModelReasoner

PATIENCE_S = 120.0
"""How long an endpoint may say nothing."""


def endpoint(address: str) -> ChatModelReasoner:
    """The model behind an address such as http://localhost:8000/v1#Qwen3-VL-8B; without #NAME the only one there.

    The key is OPENAI_API_KEY, if the environment has one. Raises ConfigError when langchain-openai is not installed,
    ModelError when nobody answers or there are several models.
    """
    with from_extra("openai", "langchain-openai"):
        from foveate.models.openai_chat import chat_model_at
    url, _, model = address.partition("#")
    key = os.environ.get("OPENAI_API_KEY") or "none"
    model = model or _only_model(url, key)
    try:
        chat = chat_model_at(url, model, key=key, patience_s=PATIENCE_S)
    except Exception as error:  # of the client of HTTP, which has errors of its own for an address that is none
        raise ModelError(f"{_shown_url(url)} is no address of an endpoint: {named_line(error)}") from error
    hands = ("max_tokens", "temperature", "seed")
    return ChatModelReasoner(chat, name=f"{_shown_url(url)}#{model}", hands=hands, totals=True)


def _shown_url(url: str) -> str:
    """An address without the name and the password in it: it stands in answers, checkpoints and errors."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _only_model(url: str, key: str) -> str:
    import openai

    shown_url = _shown_url(url)
    try:
        client = openai.OpenAI(base_url=url, api_key=key, timeout=PATIENCE_S, max_retries=0)
        names = [model.id for model in client.models.list()]
    except Exception as error:  # of the client, of HTTP's, or of a page of another kind
        raise ModelError(f"nobody speaks OpenAI's protocol at {shown_url}: {named_line(error)}") from error
    if len(names) != 1:
        shown = ", ".join(names[:8]) or "none"
        raise ModelError(f"{shown_url} serves {len(names)} models ({shown}); name one: {shown_url}#NAME")
    return names[0]
