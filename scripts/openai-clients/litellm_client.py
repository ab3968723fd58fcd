"""What scripts/openai-clients.sh says with LiteLLM's function `completion`: URL [STEP …]."""

import base64
import os

# Its list of prices comes with the package.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402
from steps import EDITED, FIRST, PICTURE, SECOND, TOKEN, TOOL, WEATHER, address, check, run  # noqa: E402

litellm.suppress_debug_info = True


def say(step, messages, model="recorded", **more):
    return litellm.completion(
        model=f"openai/{model}", messages=messages, api_base=address(step), api_key=TOKEN, **more
    )


def user(text):
    return {"role": "user", "content": text}


def conversation():
    messages = [{"role": "system", "content": "Be brief."}, user(FIRST)]
    first = say("first", messages).choices[0].message
    check(FIRST in first.content)
    # As its documentation does it: the object goes back.
    messages += [first, user(SECOND)]
    check(SECOND in say("second", messages).choices[0].message.content)
    check(SECOND in say("regenerate", messages).choices[0].message.content)
    check(EDITED in say("edit", [messages[0], user(EDITED)]).choices[0].message.content)


def streamed(step, messages, **more):
    chunks = list(say(step, messages, stream=True, **more))
    return litellm.stream_chunk_builder(chunks, messages=messages)


def stream():
    first = streamed("stream-first", [user(FIRST)]).choices[0].message
    check(FIRST in first.content)
    second = streamed("stream-second", [user(FIRST), first, user(SECOND)])
    check(SECOND in second.choices[0].message.content)


def usage():
    whole = streamed("usage", [user(FIRST)], stream_options={"include_usage": True})
    check(FIRST in whole.choices[0].message.content and whole.usage.total_tokens > 0)


def abort():
    text = ""
    pieces = say("abort", [user(FIRST)], "verbose", stream=True)
    for chunk in pieces:
        text += chunk.choices[0].delta.content or ""
        if len(text) > 60:
            break
    pieces.completion_stream.close()
    messages = [user(FIRST), {"role": "assistant", "content": text}, user(SECOND)]
    check(SECOND in say("abort-next", messages).choices[0].message.content)


def tool():
    messages = [user(WEATHER)]
    asked = say("tool", messages, tools=[TOOL]).choices[0].message
    call = asked.tool_calls[0]
    check(call.function.name == "weather")
    messages += [asked, {"role": "tool", "tool_call_id": call.id, "name": "weather", "content": "12 °C"}]
    check(say("tool-result", messages, tools=[TOOL]).choices[0].message.content)


def parts():
    url = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    content = [{"type": "text", "text": FIRST}, {"type": "image_url", "image_url": {"url": url}}]
    check(FIRST in say("parts", [user(content)]).choices[0].message.content)


def system():
    roles = [("system", "Be brief."), ("developer", "Be kind."), ("system", "It is Monday.")]
    messages = [{"role": role, "content": text} for role, text in roles]
    check(FIRST in say("system", [*messages, user(FIRST)]).choices[0].message.content)


def options():
    more = {"temperature": 0.5, "max_tokens": 50, "seed": 1, "stop": ["END"], "user": "ada", "store": False}
    # Names of conversations that stay in the program, and some that do not.
    more |= {"metadata": {"session_id": "m"}, "litellm_session_id": "s", "litellm_trace_id": "t", "session_id": "b"}
    check(say("options", [user(FIRST)], **more, extra_headers={"X-Session-Id": "h"}))


def reasoning():
    first = say("reasoning", [user(FIRST)], "reasoner").choices[0].message
    check(say("reasoning-next", [user(FIRST), first, user(SECOND)]))


def retry():
    check(say("retry", [user(FIRST)], "fail-503-once", num_retries=2))


run([conversation, stream, usage, abort, tool, parts, system], [options, reasoning, retry])
