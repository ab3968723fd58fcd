"""What scripts/openai-clients.sh says with the command `llm`: URL [STEP …]. Each step has a folder of settings of its own."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from steps import EDITED, FIRST, PICTURE, SECOND, TOKEN, WEATHER, address, check, run

# Not the script beside it, which names the folder that it was made in.
LLM = [sys.executable, "-m", "llm"]
# The tool of the other clients, as this one defines tools.
FUNCTIONS = '''
def weather(city: str, days: float = 1) -> str:
    "The weather of a city."
    return "12 °C"
'''


def llm(folder, step, *arguments, model="recorded"):
    """Runs it with a model of this name at the step's address; a conversation is kept in the folder between steps."""
    features = {"supports_tools": True, "vision": True, "api_key_name": "chatkeep"}
    known = [{"model_id": model, "model_name": model, "api_base": address(step), **features}]
    # JSON is YAML, too.
    pathlib.Path(folder, "extra-openai-models.yaml").write_text(json.dumps(known))
    environment = {**os.environ, "LLM_USER_PATH": folder}
    command = [*LLM, "prompt", "-m", model, "--key", TOKEN, *arguments]
    given = {"stdin": subprocess.DEVNULL, "capture_output": True, "encoding": "utf-8", "timeout": 300}
    ran = subprocess.run(command, env=environment, **given)
    if ran.returncode != 0:
        raise AssertionError(ran.stderr)
    return ran.stdout


def conversation():
    with tempfile.TemporaryDirectory() as folder:
        check(FIRST in llm(folder, "first", "--no-stream", "-s", "Be brief.", FIRST))
        # `-c` goes on with what was said last, from its database.
        check(SECOND in llm(folder, "second", "--no-stream", "-c", SECOND))
        check(EDITED in llm(folder, "edit", "--no-stream", "-s", "Be brief.", EDITED))


def stream():
    with tempfile.TemporaryDirectory() as folder:
        check(FIRST in llm(folder, "stream-first", FIRST))
        check(SECOND in llm(folder, "stream-second", "-c", SECOND))


def tool():
    with tempfile.TemporaryDirectory() as folder:
        # Both requests are of one command: it runs the tool between them.
        check(llm(folder, "tool", "--functions", FUNCTIONS, "--no-stream", WEATHER).strip())


def parts():
    with tempfile.TemporaryDirectory() as folder:
        picture = pathlib.Path(folder, "picture.png")
        picture.write_bytes(PICTURE)
        check(FIRST in llm(folder, "parts", "--at", str(picture), "image/png", FIRST))


def system():
    with tempfile.TemporaryDirectory() as folder:
        llm(folder, "system", "-s", "Be brief.", FIRST)
        # Another system prompt in the same conversation.
        check(SECOND in llm(folder, "system-next", "-c", "-s", "Be kind.", SECOND))


def options():
    with tempfile.TemporaryDirectory() as folder:
        named = ["temperature", "0.5", "max_tokens", "50", "seed", "1", "stop", "END"]
        given = [word for at in range(0, len(named), 2) for word in ("-o", *named[at : at + 2])]
        check(FIRST in llm(folder, "options", *given, FIRST))


def reasoning():
    with tempfile.TemporaryDirectory() as folder:
        llm(folder, "reasoning", FIRST, model="reasoner")
        check(SECOND in llm(folder, "reasoning-next", "-c", SECOND, model="reasoner"))


def retry():
    with tempfile.TemporaryDirectory() as folder:
        check(FIRST in llm(folder, "retry", FIRST, model="fail-503-once"))


run([conversation, stream, tool, parts, system], [options, reasoning, retry])
