"""What scripts/openai-clients.sh says with OpenAI's own client for Python: URL [STEP …]."""

import base64

import openai
from steps import address, EDITED, FIRST, PICTURE, SECOND, TOKEN, TOOL, WEATHER, check, run


# The session of each reply, where the server names one.
sessions = []


def client(step):
    def note(response):
        sessions.append(response.headers.get("x-chatkeep-session"))

    http = openai.DefaultHttpxClient(event_hooks={"response": [note]})
    return openai.OpenAI(base_url=address(step), api_key=TOKEN, http_client=http)


def say(step, messages, **more):
    return client(step).chat.completions.create(model="recorded", messages=messages, **more)


def user(text):
    return {"role": "user", "content": text}


def models():
    check([model.id for model in client("models").models.list()])


def conversation():
    messages = [{"role": "system", "content": "Be brief."}, user(FIRST)]
    first = say("first", messages).choices[0].message
    check(FIRST in first.content)
    # As the client's documentation does it: its own object goes back.
    messages += [first, user(SECOND)]
    check(SECOND in say("second", messages).choices[0].message.content)
    check(SECOND in say("regenerate", messages).choices[0].message.content)
    check(len(set(sessions[-3:])) == 1)
    check(EDITED in say("edit", [messages[0], user(EDITED)]).choices[0].message.content)


def streamed(step, messages, **more):
    text, usage = "", None
    for chunk in say(step, messages, stream=True, **more):
        usage = chunk.usage or usage
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    return text, usage


def stream():
    text, _ = streamed("stream-first", [user(FIRST)])
    check(FIRST in text)
    messages = [user(FIRST), {"role": "assistant", "content": text}, user(SECOND)]
    check(SECOND in streamed("stream-second", messages)[0])
    check(len(set(sessions[-2:])) == 1)


def usage():
    text, usage = streamed("usage", [user(FIRST)], stream_options={"include_usage": True})
    check(FIRST in text and usage.total_tokens > 0)


def abort():
    # The server has a second to see that the connection is gone, which a busy machine may exceed: then in another conversation.
    for first in [FIRST, *(f"{FIRST} {n}" for n in range(4))]:
        text = ""
        with client("abort").chat.completions.create(model="verbose", messages=[user(first)], stream=True) as pieces:
            for chunk in pieces:
                text += chunk.choices[0].delta.content or ""
                if len(text) > 60:
                    break
        messages = [user(first), {"role": "assistant", "content": text}, user(SECOND)]
        check(SECOND in say("abort-next", messages).choices[0].message.content)
        if len(set(sessions[-2:])) == 1:
            return
    check(False)


def tool():
    messages = [user(WEATHER)]
    asked = say("tool", messages, tools=[TOOL]).choices[0].message
    call = asked.tool_calls[0]
    check(call.function.name == "weather")
    messages += [asked, {"role": "tool", "tool_call_id": call.id, "content": "12 °C"}]
    check(say("tool-result", messages, tools=[TOOL]).choices[0].message.content)
    check(len(set(sessions[-2:])) == 1)


def parts():
    url = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    content = [{"type": "text", "text": FIRST}, {"type": "image_url", "image_url": {"url": url}}]
    check(FIRST in say("parts", [user(content)]).choices[0].message.content)


def system():
    roles = [("system", "Be brief."), ("developer", "Be kind."), ("system", "It is Monday.")]
    messages = [{"role": role, "content": text} for role, text in roles]
    check(FIRST in say("system", [*messages, user(FIRST)]).choices[0].message.content)


def options():
    more = {"temperature": 0.5, "max_completion_tokens": 50, "seed": 1, "stop": ["END"], "user": "ada", "store": False}
    more |= {"metadata": {"session_id": "m"}, "response_format": {"type": "text"}, "reasoning_effort": "low"}
    check(say("options", [user(FIRST)], **more, extra_headers={"X-Session-Id": "h"}, extra_body={"chat": {"id": 1}}))


def reasoning():
    first = client("reasoning").chat.completions.create(model="reasoner", messages=[user(FIRST)]).choices[0].message
    say("reasoning-next", [user(FIRST), first, user(SECOND)])


def retry():
    check(client("retry").chat.completions.create(model="fail-503-once", messages=[user(FIRST)]))


run([models, conversation, stream, usage, abort, tool, parts, system], [options, reasoning, retry])
