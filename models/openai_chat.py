"""LangChain's client of OpenAI's protocol for the servers that people run themselves.

vLLM, SGLang, llama.cpp and Ollama call the longest turn max_tokens, as the protocol did at first, and give what a model
thought as reasoning_content or reasoning, which LangChain's own class leaves out.
"""

from typing import Any
from urllib.parse import urlsplit

from langchain_core.outputs import ChatGenerationChunk
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import BaseChatOpenAI

OPENAI = "api.openai.com"
THOUGHTS = ("reasoning_content", "reasoning")
"""Where servers put what a model thought, beside "content"."""


class ServedChat(BaseChatOpenAI):
    """A chat model behind a server of one's own."""

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        made = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        delta = next((choice.get("delta") or {} for choice in chunk.get("choices") or ()), {})
        thought = next((delta[key] for key in THOUGHTS if isinstance(delta.get(key), str) and delta[key]), None)
        if made is not None and thought is not None:
            made.message.additional_kwargs[THOUGHTS[0]] = thought  # where langchain-core looks for it, unless
            made.message.response_metadata.pop("model_provider", None)  # it takes the message for OpenAI's own
        return made


def chat_model_at(url: str, model: str, *, key: str, patience_s: float) -> BaseChatOpenAI:
    """The model of this name behind a base URL; OpenAI's own server has settings of its own."""
    usual: dict[str, Any] = {"base_url": url, "api_key": key, "timeout": patience_s, "stream_usage": True}
    if urlsplit(url).hostname == OPENAI:
        return ChatOpenAI(model=model, **usual)
    return ServedChat(model=model, use_responses_api=False, **usual)  # whatever the model is called
