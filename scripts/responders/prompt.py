#!/usr/bin/env python3
"""Lets any program that reads a prompt and writes its continuation be the assistant: a model on the command line, say.

  responder:
    kind: command
    command: ["scripts/responders/prompt.py", "llm", "-m", "some-model"]

The words after the script are the program and its arguments (`llm`, `llama-cli -f /dev/stdin --no-display-prompt`, `ollama
run some-model`, a script of yours). It gets the conversation as plain text on its stdin:

  User: what they said
  Assistant: what was answered
  User: what they say now
  Assistant:

What it prints is passed on as it comes. Its exit code becomes ours, its stderr is ours, and chatkeep ends it with us, because
it stays in our process group. SYSTEM_PROMPT in the environment goes before the conversation. Python 3.8 or newer, nothing else.
"""
import json
import os
import subprocess
import sys
import threading

NAMES = {"user": "User", "assistant": "Assistant", "system": "System"}


def prompt(conversation):
    lines = [os.environ["SYSTEM_PROMPT"]] if os.environ.get("SYSTEM_PROMPT") else []
    for message in conversation["messages"]:
        # The reason of an earlier failure is nothing the assistant said, and some messages have no text.
        if message["metadata"].get("status") != "error" and message["text"].strip():
            lines.append("%s: %s" % (NAMES.get(message["role"], message["role"]), message["text"]))
    return "\n".join(lines) + "\nAssistant:"


def main():
    if len(sys.argv) < 2:
        sys.exit("usage: prompt.py PROGRAM [ARGUMENT...]")
    text = prompt(json.load(sys.stdin)).encode()
    try:
        program = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as e:
        sys.exit("%s: %s" % (sys.argv[1], e.strerror))

    def feed():
        # A program need not read its prompt to the end.
        try:
            program.stdin.write(text)
            program.stdin.close()
        except BrokenPipeError:
            pass

    threading.Thread(target=feed, daemon=True).start()
    is_first = True
    while True:
        piece = os.read(program.stdout.fileno(), 65536)
        if not piece:
            break
        # Models begin with the space that stands after "Assistant:".
        os.write(1, piece.lstrip() if is_first else piece)
        is_first = False
    code = program.wait()
    sys.exit(code if code >= 0 else 128 - code)


main()
