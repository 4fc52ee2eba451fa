"""`foveate` alone: the conversation in the terminal, wired to where conversations are kept."""

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.agent.budget import Budget
from foveate.cli.options import USUAL, check_tools, tools_for
from foveate.cli.reasoner import LoadReasoner
from foveate.errors import InputError
from foveate.models.device import AUTO
from foveate.paths import expanded

if TYPE_CHECKING:
    from foveate.agent.agent import Agent
    from foveate.agent.conversations import Conversation, Conversations
    from foveate.models.reasoner import Reasoner
    from foveate.tools.tool import Tool


def chat(
    load: LoadReasoner,
    *,
    resume: bool | str,
    images: Sequence[Path],
    model: str | None,
    device: str = AUTO,
    network: bool,
    unsafe: bool,
    data_dir: Path | None,
    budget: Budget = USUAL,
    temperature: float = 0.0,
    seed: int | None = None,
    no_tools: bool = False,
) -> int:
    """Start a conversation, continue the last one or the one that `resume` names, and return when the user leaves."""
    from platformdirs import user_data_path
    from rich.console import Console
    from rich.text import Text

    from foveate.agent.conversations import Conversations
    from foveate.agent.plain import one_line
    from foveate.pictures import open_picture

    check_tools(no_tools=no_tools, network=network, unsafe=unsafe)
    for image in images or ():  # before a model is loaded, which may take minutes
        open_picture(image)
    if data_dir is None:
        data_dir = user_data_path("foveate")
    conversations = Conversations(expanded(data_dir))
    conversation = _conversation(conversations, model, resume=resume)
    console = Console(highlight=False)

    @lru_cache(maxsize=1)  # another conversation mostly goes on with the same model
    def model_and_tools(name: str) -> "tuple[Reasoner, tuple[Tool, ...]]":
        reasoner = load(name, device)
        return reasoner, tools_for(reasoner.dialect, no_tools=no_tools, network=network, unsafe=unsafe)

    def make_agent(name: str) -> "Agent":
        with console.status(Text(f"loading {one_line(name)}")):
            reasoner, tools = model_and_tools(name)
            from foveate.agent.agent import Agent
            from foveate.agent.images import ImageStore

            return Agent(
                reasoner,
                tools=tools,
                budget=budget,
                checkpoint=conversations.database,
                store=ImageStore(conversations.images),
                temperature=temperature,
                seed=seed,
            )

    from foveate.agent.line_editor import line_reader
    from foveate.agent.repl import COMMANDS, Repl

    is_typed = sys.stdin is not None and sys.stdin.isatty()
    with Repl(
        conversation, conversations=conversations, make_agent=make_agent, console=console, is_typed=is_typed
    ) as repl:
        if images:
            repl.add_pictures(images)
        repl.run(line_reader(conversations.history, COMMANDS, repl.toolbar))
    return 0


def _conversation(conversations: "Conversations", model: str | None, *, resume: bool | str) -> "Conversation":
    """A new conversation, the last or a named one; a conversation goes on with the model that it began with."""
    if resume is False:
        return conversations.start(model or "nano")
    from foveate.agent.conversations import lasting_name

    if isinstance(resume, str):
        from foveate.agent.archive import Archive, find

        conversation = conversations.get(find(resume, Archive(conversations).kept()).thread, model or "nano")
    else:
        conversation = conversations.last()
    if model is not None and lasting_name(model) != conversation.model:
        wanted = f"{conversation.model}: a conversation stays with its model; leave out --model"
        raise InputError(f"got --model {model}, wanted {wanted}")
    return conversation
