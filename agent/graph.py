"""The loop on one screen: a LangGraph state machine over `RunState`.

    begin -> think -> act -> observe -> think -> ... -> answer
               |  |    ^-'(a call is left)
               |  `-(malformed)-> observe
               `-(answer, or the run must end)-> answer

`think` samples a turn and parses it, `act` runs one of its tool calls, `observe` shows the results to the model,
`answer` closes the question. A checkpoint is written between two nodes, so a killed run loses one turn or one call. The
graph holds no state of its own: what a run needs beside its checkpointed state comes in as a `RunContext`, so one graph
serves many conversations from many threads.
"""

from collections.abc import Callable

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from PIL import Image

from foveate.agent.images import ImageStore
from foveate.agent.nodes import Nodes
from foveate.agent.state import QuestionInput, RunContext, RunState
from foveate.models.reasoner import Reasoner

Graph = CompiledStateGraph[RunState, RunContext, QuestionInput, RunState]


def build_graph(
    reasoner: Reasoner,
    store: ImageStore,
    *,
    observe_image: Callable[[Image.Image], Image.Image] | None = None,
    checkpointer: BaseCheckpointSaver[str] | None = None,
) -> Graph:
    """The compiled graph; invoke it with `question_input(...)` and ``context=RunContext(...)``.

    `observe_image` replaces every image that a tool made before the model sees it (for faithfulness controls).
    """
    nodes = Nodes(reasoner=reasoner, store=store, observe_image=observe_image)
    graph = StateGraph(RunState, RunContext, input_schema=QuestionInput)
    graph.add_node("begin", nodes.begin)
    graph.add_node("think", nodes.think)
    graph.add_node("act", nodes.act)
    graph.add_node("observe", nodes.observe)
    graph.add_node("answer", nodes.answer)
    graph.add_edge(START, "begin")
    graph.add_conditional_edges("begin", after_looking, ["think", "answer"])
    graph.add_conditional_edges("think", after_thinking, ["act", "observe", "answer"])
    graph.add_conditional_edges("act", after_acting, ["act", "observe"])
    graph.add_conditional_edges("observe", after_looking, ["think", "answer"])
    graph.add_edge("answer", END)
    return graph.compile(checkpointer=checkpointer)


def after_looking(state: RunState) -> str:
    """From a question or an observation to the next thought, unless the run must end."""
    return "answer" if state["outcome"] else "think"


def after_thinking(state: RunState) -> str:
    """From a turn to what it asks for."""
    if state["outcome"] or "answer" in state["pending"]:
        return "answer"
    return "act" if "calls" in state["pending"] else "observe"


def after_acting(state: RunState) -> str:
    """From a call to the next one of its turn, or to what they returned."""
    return "act" if len(state["results"]) < len(state["pending"]["calls"]) else "observe"
