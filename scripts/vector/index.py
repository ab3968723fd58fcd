"""The index: points in Qdrant, in a folder or on a server. To use another store, replace this file."""
import contextlib
import os
import re
import sqlite3
import sys
import textwrap
import time
import uuid
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

import pymongo
from qdrant_client import QdrantClient, models

from sources import MODEL, log

VECTORS = os.environ.get("VECTORS", "vectors")  # the folder, unless there is a server
VECTORS_NAME = os.environ.get("VECTORS_NAME", "chatkeep")
QDRANT_URL, QDRANT_API_KEY = os.environ.get("QDRANT_URL"), os.environ.get("QDRANT_API_KEY")
TRANSCRIPTS = Path(os.environ.get("CHATKEEP_TRANSCRIPTS", "data/cache/chat_sessions"))

POSITION = str(uuid.UUID(int=0))  # the id of the point that holds the feed's position
CHUNK = 500  # characters of a point: one vector for a long text is near to nothing
BATCH = 100  # texts that are embedded at once


def point_ids(message_id, chunks):
    return [str(uuid.uuid5(uuid.UUID(message_id), str(n))) for n in range(chunks)]


def field(key, value):
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def time_range(**bounds):
    return models.FieldCondition(key="at", range=models.Range(**bounds))


class Index:
    """The points of messages, several for a long one, and the position. Every point of a message has its time `at`."""

    def __init__(self, embed):
        self.embed = embed
        self.name = f"{VECTORS_NAME}-" + re.sub(r"[^A-Za-z0-9]+", "-", MODEL)  # vectors of two models do not mix
        self.qdrant = QdrantClient(url=QDRANT_URL, api_key=QDRANT_API_KEY, timeout=60) if QDRANT_URL else self.open()
        if not self.qdrant.collection_exists(self.name):
            size = len(embed(["size"])[0])
            self.qdrant.create_collection(self.name, models.VectorParams(size=size, distance=models.Distance.COSINE))
            if not QDRANT_URL:
                # Each point is a transaction of SQLite: this makes it one sync instead of four.
                with contextlib.closing(sqlite3.connect(f"{VECTORS}/collection/{self.name}/storage.sqlite")) as file:
                    file.execute("PRAGMA journal_mode = WAL")
        if QDRANT_URL:
            for key, kind in ("session_id", "keyword"), ("message_id", "keyword"), ("at", "float"), ("linked", "bool"):
                self.qdrant.create_payload_index(self.name, key, kind)

    @staticmethod
    def open():
        """A folder belongs to one process at a time; `run` lets go of it while it waits."""
        for _ in range(600):
            try:
                return QdrantClient(path=VECTORS)
            except RuntimeError as error:
                reason = error
                time.sleep(0.1)
        sys.exit(f"error: {reason}")

    def close(self):
        self.qdrant.close()

    def points(self, *conditions):
        wanted, offset = models.Filter(must=[time_range(gte=0), *conditions]), None
        while True:
            found, offset = self.qdrant.scroll(self.name, wanted, limit=1000, offset=offset)
            yield from found
            if offset is None:
                return

    def position(self):
        found = self.qdrant.retrieve(self.name, [POSITION])
        return found[0].payload if found else {}

    def set_position(self, **position):
        if position != self.position():
            size = self.qdrant.get_collection(self.name).config.params.vectors.size
            self.qdrant.upsert(self.name, [models.PointStruct(id=POSITION, vector=[1.0] * size, payload=position)])

    def add(self, messages):
        """Embeds and stores what is not there. A `system` message with a `type` is a marker, which nobody said."""
        wanted = {}
        for message in messages:
            if message["role"] == "system" and "type" in message["metadata"]:
                continue
            texts = textwrap.wrap(message["text"], CHUNK)
            payload = {key: message[key] for key in ("session_id", "role", "created_at")}
            payload |= {"message_id": message["id"], "chunks": len(texts), "linked": False}
            payload["at"] = datetime.fromisoformat(message["created_at"]).timestamp()
            wanted |= {id: payload | {"text": text} for id, text in zip(point_ids(message["id"], len(texts)), texts)}
        found = self.qdrant.retrieve(self.name, list(wanted), with_payload=False) if wanted else []
        known = {point.id for point in found}
        new = [(id, payload) for id, payload in wanted.items() if id not in known]
        for batch in (new[n : n + BATCH] for n in range(0, len(new), BATCH)):
            vectors = self.embed([payload["text"] for _, payload in batch])
            points = [models.PointStruct(id=id, payload=payload, vector=v) for (id, payload), v in zip(batch, vectors)]
            self.qdrant.upsert(self.name, points)
        return len(new)

    def remove(self, is_gone, *conditions):
        gone = [point.id for point in self.points(*conditions) if is_gone(point.payload["message_id"])]
        if gone:
            self.qdrant.delete(self.name, gone)
        return len(gone)

    def fill(self, chatkeep):
        """Makes the index what the histories show, and returns the place in the feed to go on from."""
        oldest = chatkeep.feed(limit=1)
        # A transcript is named after its session. Sessions that are only here may have been erased.
        sessions = {unquote(path.stem) for path in TRANSCRIPTS.glob("*.jsonl")}
        shown = set()
        for session in sorted(sessions | {point.payload["session_id"] for point in self.points()}):
            for messages in chatkeep.history(session):
                log(f"{self.add(messages)} points added, by the history of {session}")
                shown.update(message["id"] for message in messages)
        log(f"{self.remove(lambda id: id not in shown)} points removed, which no history has")
        self.apply(oldest["events"])
        return oldest["next"]

    def apply(self, events):
        """Does what a page of the feed says. None of its messages is erased further down in it."""
        removed = 0
        for event in events:
            if event["type"] == "erased":
                session, last = field("session_id", event["session_id"]), event["erasure_id"]
                removed += self.remove(lambda id: id <= last, session)
        added = self.add(event["message"] for event in events if event["type"] == "message")
        if added or removed:
            log(f"{added} points added, {removed} removed, by the feed")

    def catch_up(self, chatkeep):
        """Does what the feed says to its end, and returns where that is."""
        ttl_days, cursor, has_more = chatkeep.ttl_days(), self.position().get("cursor"), True
        while has_more:
            page = chatkeep.feed(after=cursor) if cursor else None
            if page is None:  # it is the first time, or the feed no longer has what follows
                cursor = self.fill(chatkeep)
            else:
                self.apply(page["events"])
                cursor, has_more = page["next"], page["has_more"]
            self.set_position(cursor=cursor, ttl_days=ttl_days)
        if ttl_days:
            expired = models.Filter(must=[time_range(lt=time.time() - ttl_days * 86400)])
            self.qdrant.delete(self.name, expired)
        return cursor

    def link(self, documents):
        """Sets `vector_ids` of the documents that are there by now; returns how many messages have none yet."""
        pending = {p.payload["message_id"]: p.payload["chunks"] for p in self.points(field("linked", False))}
        ids = list(pending)
        for batch in (ids[n : n + 1000] for n in range(0, len(ids), 1000)):
            there = documents.find({"_id": {"$in": batch}}, {"_id": 1})
            vectors = {document["_id"]: point_ids(document["_id"], pending.pop(document["_id"])) for document in there}
            if vectors:
                update = {id: {"$addToSet": {"vector_ids": {"$each": vectors[id]}}} for id in vectors}
                documents.bulk_write([pymongo.UpdateOne({"_id": id}, update[id]) for id in update], ordered=False)
                self.qdrant.set_payload(self.name, {"linked": True}, sum(vectors.values(), []))
        return len(pending)

    def search(self, question, limit, *conditions):
        """The nearest point of each of the nearest messages that have not expired; `None` before anything was indexed."""
        position = self.position()
        if not position:
            return None
        since = time.time() - position["ttl_days"] * 86400 if position["ttl_days"] else 0
        wanted = models.Filter(must=[time_range(gte=since), *conditions])
        vector = self.embed([question])[0]
        found = self.qdrant.query_points_groups(
            self.name, "message_id", vector, query_filter=wanted, limit=limit, group_size=1
        )
        return [group.hits[0] for group in found.groups]
