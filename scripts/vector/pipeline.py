#!/usr/bin/env python3
"""Keeps a vector index of what chatkeep stores, and finds messages in it by meaning.

  pipeline.py run [--once]                                      follows the feed; --once: until nothing is left to do
  pipeline.py ask [--json] [--session S] [--limit N] QUESTION   the nearest messages and their sessions

The feed's position is a point of the index, stored after the points before it: killed anywhere, `run` goes on from there,
and ids made from message ids put nothing there twice. Settings are in the environment; docs/vectors.md names them.
"""
import argparse
import contextlib
import json
import os
import sys
import time

import httpx
import pymongo
from qdrant_client.http.exceptions import ApiException

from index import Index, field
from sources import Chatkeep, embedder, log


def linked(index, documents):
    """Whether all documents have their `vector_ids`."""
    try:
        return documents is None or index.link(documents) == 0
    except pymongo.errors.PyMongoError as error:
        log(f"MongoDB: {error}")
        return False


def is_passing(error):
    """Whether time may mend it: a server that is away or overloaded, not a wrong token."""
    status = getattr(getattr(error, "response", error), "status_code", None)
    return status is None or status >= 500 or status in (408, 429)


def run(args):
    documents = None
    if os.environ.get("MONGO_URI"):
        limits = {"serverSelectionTimeoutMS": 3000, "socketTimeoutMS": 30000}
        mongo = pymongo.MongoClient(os.environ["MONGO_URI"], w="majority", **limits)
        database, name = os.environ.get("MONGO_DB", "oqoqo"), os.environ.get("MONGO_CHAT_COLLECTION", "chat_messages")
        documents = mongo[database][name]
    chatkeep, embed, pause = Chatkeep(), embedder(), 1
    while True:
        try:
            with contextlib.closing(Index(embed)) as index:
                cursor = index.catch_up(chatkeep)
                is_done = linked(index, documents)
            if args.once:
                return
            pause = 1 if is_done else min(60, 2 * pause)
            chatkeep.wait(cursor, 3600 if is_done else pause)  # once an hour expired points are removed
        except (httpx.HTTPError, ApiException) as error:
            if args.once or not is_passing(error):
                raise
            log(f"{type(error).__name__}: {error}; again in {pause} s")
            time.sleep(pause)
            pause = min(60, 2 * pause)


def ask(args):
    with contextlib.closing(Index(embedder())) as index:
        found = index.search(args.question, args.limit, *([field("session_id", args.session)] if args.session else []))
    if found is None:
        sys.exit("error: nothing is indexed yet; `pipeline.py run` does that")
    for point in found:
        said = {key: point.payload[key] for key in ("message_id", "session_id", "role", "created_at", "text")}
        shown = "".join(c if c.isprintable() else " " for c in said["text"])
        line = f"{point.score:5.2f}  {said['created_at'][:19]}Z  {said['session_id']}  {said['role']}  {shown}"
        print(json.dumps(said | {"score": round(point.score, 4)}, ensure_ascii=False) if args.json else line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    run_parser, ask_parser = commands.add_parser("run"), commands.add_parser("ask")
    run_parser.set_defaults(command=run)
    run_parser.add_argument("--once", action="store_true")
    ask_parser.set_defaults(command=ask)
    ask_parser.add_argument("--json", action="store_true")
    ask_parser.add_argument("--session")
    ask_parser.add_argument("--limit", type=int, default=5)
    ask_parser.add_argument("question")
    args = parser.parse_args()
    os.umask(0o077)  # the index has the texts of messages
    try:
        args.command(args)
    except (httpx.HTTPError, ApiException) as error:
        sys.exit(f"error: {type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


main()
