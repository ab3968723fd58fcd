"""What scripts/openai-clients.sh says with LangChain's ChatOpenAI: URL [STEP …]."""

import base64

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI
from steps import EDITED, FIRST, PICTURE, SECOND, TOKEN, TOOL, WEATHER, address, check, run


def model(step, name="recorded", **more):
    return ChatOpenAI(base_url=address(step), api_key=TOKEN, model=name, **more)


def conversation():
    messages = [SystemMessage("Be brief."), HumanMessage(FIRST)]
    first = model("first").invoke(messages)
    check(FIRST in first.text)
    messages += [first, HumanMessage(SECOND)]
    check(SECOND in model("second").invoke(messages).text)
    check(SECOND in model("regenerate").invoke(messages).text)
    check(EDITED in model("edit").invoke([messages[0], HumanMessage(EDITED)]).text)


def whole(chunks):
    total = None
    for chunk in chunks:
        total = chunk if total is None else total + chunk
    return total


def stream():
    first = whole(model("stream-first").stream([HumanMessage(FIRST)]))
    check(FIRST in first.text)
    # The sum of the chunks goes back, as the graphs of LangChain do it.
    second = whole(model("stream-second").stream([HumanMessage(FIRST), first, HumanMessage(SECOND)]))
    check(SECOND in second.text)


def usage():
    said = whole(model("usage", stream_usage=True).stream([HumanMessage(FIRST)]))
    check(FIRST in said.text and said.usage_metadata["total_tokens"] > 0)


def abort():
    text = ""
    pieces = model("abort", "verbose").stream([HumanMessage(FIRST)])
    for chunk in pieces:
        text += chunk.text
        if len(text) > 60:
            break
    pieces.close()
    messages = [HumanMessage(FIRST), AIMessage(text), HumanMessage(SECOND)]
    check(SECOND in model("abort-next").invoke(messages).text)


def tool():
    messages = [HumanMessage(WEATHER)]
    asked = model("tool").bind_tools([TOOL]).invoke(messages)
    call = asked.tool_calls[0]
    check(call["name"] == "weather")
    messages += [asked, ToolMessage("12 °C", tool_call_id=call["id"])]
    check(model("tool-result").bind_tools([TOOL]).invoke(messages).text)


def parts():
    url = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    content = [{"type": "text", "text": FIRST}, {"type": "image_url", "image_url": {"url": url}}]
    check(FIRST in model("parts").invoke([HumanMessage(content)]).text)


def system():
    developer = SystemMessage("Be kind.", additional_kwargs={"__openai_role__": "developer"})
    messages = [SystemMessage("Be brief."), developer, SystemMessage("It is Monday."), HumanMessage(FIRST)]
    check(FIRST in model("system").invoke(messages).text)


def options():
    more = {"temperature": 0.5, "max_tokens": 50, "seed": 1, "stop": ["END"], "store": False, "metadata": {"a": "b"}}
    named = model("options", **more, default_headers={"X-Session-Id": "h"}, extra_body={"session_id": "b"})
    # What LangGraph names a conversation with stays in the program.
    check(named.invoke([HumanMessage(FIRST)], config={"configurable": {"thread_id": "t"}, "metadata": {"c": "d"}}))


def reasoning():
    first = model("reasoning", "reasoner").invoke([HumanMessage(FIRST)])
    check(model("reasoning-next").invoke([HumanMessage(FIRST), first, HumanMessage(SECOND)]))


def retry():
    check(model("retry", "fail-503-once").invoke([HumanMessage(FIRST)]))


run([conversation, stream, usage, abort, tool, parts, system], [options, reasoning, retry])
