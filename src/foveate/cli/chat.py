"""`foveate` alone: the conversation in the terminal, wired to where conversations are kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.cli.options import tools_for
from foveate.cli.reasoner import LoadReasoner
from foveate.errors import InputError
from foveate.paths import expanded

if TYPE_CHECKING:
    from foveate.agent.agent import Agent
    from foveate.agent.conversations import Conversation, Conversations


def chat(
    load: LoadReasoner,
    *,
    resume: bool,
    images: Sequence[Path],
    model: str | None,
    network: bool,
    unsafe: bool,
    data_dir: Path | None,
) -> int:
    """Start or continue a conversation and return when the user leaves."""
    from platformdirs import user_data_path
    from rich.console import Console

    from foveate.agent.conversations import Conversations

    if data_dir is None:
        data_dir = user_data_path("foveate")
    conversations = Conversations(expanded(data_dir))
    conversation = _conversation(conversations, model, resume=resume)
    console = Console(highlight=False)

    def make_agent(name: str) -> "Agent":
        with console.status(f"loading {name}"):
            reasoner = load(name)
            from foveate.agent.agent import Agent
            from foveate.agent.images import ImageStore

            store = ImageStore(conversations.images)
            tools = tools_for(no_tools=False, network=network, unsafe=unsafe)
            return Agent(reasoner, tools=tools, checkpoint=conversations.database, store=store)

    from foveate.agent.line_editor import line_reader
    from foveate.agent.repl import COMMANDS, Repl
    from foveate.agent.session import Session

    with Session(make_agent=make_agent, conversations=conversations, conversation=conversation) as session:
        repl = Repl(session, console)
        for path in images:
            session.add_picture(path)
        repl.run(line_reader(conversations.history, COMMANDS, repl.toolbar))
    return 0


def _conversation(conversations: "Conversations", model: str | None, *, resume: bool) -> "Conversation":
    """The last conversation or a new one; a conversation goes on with the model that it began with."""
    if not resume:
        return conversations.start(model or "nano")
    from foveate.agent.conversations import lasting_name

    last = conversations.last()
    if model is not None and lasting_name(model) != last.model:
        raise InputError(f"got --model {model}, wanted {last.model}: a conversation stays with its model; leave out -c")
    return last
