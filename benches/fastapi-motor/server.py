"""Chat persistence with FastAPI and Motor: the peer that scripts/bench measures chatkeep against.

Our own rendering of the text that chatkeep began with, which describes such a system: a local cache with a flush queue and
JSONL files, a MongoDB storage with TTL indexes, and a background worker that drains the one into the other, with backoff. It
is written as that text says and as plainly as FastAPI is usually written, without its WebSocket and its YAML file. One
process, because cache and queue are in its memory.

    server.py MONGO_URI DATABASE FOLDER     takes a free port and prints `listening on http://ADDR:PORT`
"""

import asyncio
import json
import logging
import socket
import sys
from collections import defaultdict, deque
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Query
from motor.motor_asyncio import AsyncIOMotorClient
from pydantic import BaseModel, Field
from pymongo import ASCENDING, DESCENDING
from pymongo.errors import PyMongoError

TTL = timedelta(days=30)
MAX_MESSAGES_PER_SESSION = 75
BATCH_MAX = 500
BACKOFF_SECONDS = (0.5, 30.0)
log = logging.getLogger("chat")


class LocalChatCache:
    """The newest messages of each session, a JSONL file each, and a queue of what MongoDB lacks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sessions: dict[str, deque] = defaultdict(lambda: deque(maxlen=MAX_MESSAGES_PER_SESSION))
        self.queue: deque[dict] = deque()

    def record(self, session_id: str, role: str, text: str, metadata: dict) -> dict:
        created_at = datetime.now(timezone.utc).isoformat()
        message = {"session_id": session_id, "role": role, "text": text, "created_at": created_at, "metadata": metadata}
        self.sessions[session_id].append(message)
        with open(self.folder / f"{session_id}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(message) + "\n")
        self.queue.append(message)
        return message


class MongoChatStorage:
    """Bulk inserts, with a date at which MongoDB drops each message."""

    def __init__(self, uri: str, database: str) -> None:
        self.client = AsyncIOMotorClient(uri, serverSelectionTimeoutMS=5000)
        self.messages = self.client[database]["chat_messages"]

    async def ensure_indexes(self) -> None:
        await self.messages.create_index([("session_id", ASCENDING), ("created_at", DESCENDING)])
        await self.messages.create_index("expires_at", expireAfterSeconds=0)

    async def insert_messages(self, messages: list[dict]) -> None:
        expires_at = datetime.now(timezone.utc) + TTL
        await self.messages.insert_many([{**m, "expires_at": expires_at} for m in messages], ordered=False)

    async def fetch(self, session_id: str, limit: int) -> list[dict]:
        cursor = self.messages.find({"session_id": session_id}, {"_id": 0, "expires_at": 0})
        return (await cursor.sort("created_at", DESCENDING).to_list(limit))[::-1]


class ChatPersistenceWorker:
    """Drains the queue in batches; a batch that fails stays at its head."""

    def __init__(self, cache: LocalChatCache, storage: MongoChatStorage) -> None:
        self.cache, self.storage = cache, storage
        self.news = asyncio.Event()
        self.last_persisted_at: str | None = None

    def notify_new_message(self) -> None:
        self.news.set()

    async def flush(self) -> None:
        while self.cache.queue:
            batch = [self.cache.queue[n] for n in range(min(BATCH_MAX, len(self.cache.queue)))]
            await self.storage.insert_messages(batch)
            for _ in batch:
                self.cache.queue.popleft()
            self.last_persisted_at = batch[-1]["created_at"]
            log.info("[CHAT WORKER] Flushed %d chat messages to Mongo", len(batch))

    async def run(self) -> None:
        backoff, has_indexes = BACKOFF_SECONDS[0], False
        while True:
            await self.news.wait()
            self.news.clear()
            try:
                if not has_indexes:
                    await self.storage.ensure_indexes()
                    has_indexes = True
                await self.flush()
                backoff = BACKOFF_SECONDS[0]
            except PyMongoError as error:
                log.warning("[CHAT WORKER] flush failed: %s", error)
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, BACKOFF_SECONDS[1])
                self.news.set()


class ChatRequest(BaseModel):
    message: str = Field(min_length=1)
    session_id: str = Field(default="default", pattern=r"^[A-Za-z0-9_.-]{1,128}$")


def make_app(uri: str, database: str, folder: Path, address: str) -> FastAPI:
    cache, storage = LocalChatCache(folder), MongoChatStorage(uri, database)
    worker = ChatPersistenceWorker(cache, storage)

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        task = asyncio.create_task(worker.run())
        print(f"listening on http://{address}", flush=True)
        yield
        task.cancel()
        await worker.flush()

    app = FastAPI(lifespan=lifespan)

    def record_chat_event(session_id: str, role: str, text: str, **metadata: Any) -> dict:
        message = cache.record(session_id, role, text, {"transport": "rest", **metadata})
        worker.notify_new_message()
        return message

    @app.post("/api/chat")
    async def chat(request: ChatRequest) -> dict:
        record_chat_event(request.session_id, "user", request.message)
        reply = record_chat_event(request.session_id, "assistant", request.message, status="completed")
        return {
            "response": reply["text"],
            "status": "completed",
            "timestamp": reply["created_at"],
            "session_id": request.session_id,
        }

    @app.get("/api/chat/history")
    async def history(session_id: str = "default", limit: int = Query(50, ge=1, le=500)) -> dict:
        kept = list(cache.sessions.get(session_id, ()))[-limit:]
        messages = [{**m, "source": "cache"} for m in kept]
        older = []
        if len(messages) < limit:
            seen = {(m["created_at"], m["role"]) for m in messages}
            found = await storage.fetch(session_id, limit)
            older = [{**m, "source": "mongo"} for m in found if (m["created_at"], m["role"]) not in seen]
            older = older[max(0, len(older) + len(messages) - limit) :]
        return {
            "session_id": session_id,
            "messages": older + messages,
            "counts": {"cache": len(messages), "mongo": len(older)},
            "last_persisted_at": worker.last_persisted_at,
        }

    @app.get("/api/storage/status")
    async def status() -> dict:
        try:
            await storage.client.admin.command("ping")
            mongo = "ok"
        except PyMongoError as error:
            mongo = f"error: {error}"
        return {
            "mongo": {"status": mongo, "last_persisted_at": worker.last_persisted_at},
            "cache": {"sessions": len(cache.sessions), "max_messages_per_session": MAX_MESSAGES_PER_SESSION},
            "queue": {"pending": len(cache.queue)},
        }

    return app


def main() -> None:
    uri, database, folder = sys.argv[1:]
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    address = "%s:%d" % listener.getsockname()
    app = make_app(uri, database, Path(folder), address)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


if __name__ == "__main__":
    main()
