"""What the Python clients of scripts/openai-clients.sh say, and how each of them is run."""

import os
import sys

FIRST = "Hello, I am Ada – grüß dich! 😀"
EDITED = "Hello, I am Grace."
SECOND = "What is my name?"
WEATHER = "How is the weather in Köln?"
PICTURE = bytes.fromhex("89504e470d0a1a0a")
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "number"}},
            "required": ["city"],
        },
    },
}

TOKEN = os.environ.get("OPENAI_CLIENT_TOKEN", "none")


def address(step):
    """The base URL; the recorder's has a place for the step's name."""
    return sys.argv[1].replace("{step}", step)


def check(condition):
    if not condition:
        raise AssertionError("not what was expected")


def run(steps, recorded_only):
    """Those that are named, else all; those that only the recorder can answer when it is asked."""
    names = sys.argv[2:]
    if "{step}" in sys.argv[1]:
        steps = steps + recorded_only
    known = {step.__name__ for step in steps}
    check(known.issuperset(names))
    for step in steps:
        if not names or step.__name__ in names:
            try:
                step()
            except Exception:
                print(f"failed: {step.__name__}", file=sys.stderr)
                raise
            print(f"{step.__name__}: ok")
    print("ok")
