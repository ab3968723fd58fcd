"""What the pipeline asks of servers: chatkeep's feed and histories, and vectors for texts."""
import logging
import os
import sys
import time
from pathlib import Path

import httpx

CHATKEEP_URL = os.environ.get("CHATKEEP_URL", "http://127.0.0.1:8000")
CHATKEEP_TOKEN = os.environ.get("CHATKEEP_TOKEN")
EMBEDDINGS_URL, EMBEDDINGS_KEY = os.environ.get("EMBEDDINGS_URL"), os.environ.get("EMBEDDINGS_KEY")
MODEL = os.environ.get("EMBEDDINGS_MODEL") if EMBEDDINGS_URL else "wordllama"


def log(text):
    print(text, file=sys.stderr, flush=True)


def client(key, **more):
    return httpx.Client(headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=120, **more)


def embedder():
    """A function from texts to vectors: by a server, or by a small model whose weights come with its package."""
    if not MODEL:
        sys.exit("error: EMBEDDINGS_URL needs EMBEDDINGS_MODEL, the name of a model there")
    if EMBEDDINGS_URL:
        server = client(EMBEDDINGS_KEY)

        def embed(texts):
            body = {"model": MODEL, "input": texts}
            reply = server.post(EMBEDDINGS_URL.rstrip("/") + "/embeddings", json=body).raise_for_status().json()
            return [one["embedding"] for one in sorted(reply["data"], key=lambda one: one["index"])]

        return embed
    import wordllama

    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it turned on everybody's
    return lambda texts: model.embed(texts, norm=True).tolist()


class Chatkeep:
    """What is asked of chatkeep."""

    def __init__(self):
        self.http = client(CHATKEEP_TOKEN, base_url=CHATKEEP_URL)

    def get(self, path, **parameters):
        reply = self.http.get(path, params=parameters)
        return None if reply.status_code == 410 else reply.raise_for_status().json()

    def feed(self, limit=500, wait=0, **after):
        """A page of the feed; `None` when it no longer has what follows `after`."""
        return self.get("/api/chat/feed", limit=limit, wait=wait, **after)

    def wait(self, after, seconds):
        """Returns when the feed has more, or that time is over."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            page = self.feed(limit=1, wait=min(60, int(left) + 1), after=after)
            if page is None or page["events"]:
                return

    def history(self, session):
        """The pages of a session, newest first."""
        before = {}
        while True:
            page = self.get("/api/chat/history", session_id=session, limit=500, **before)
            if not page["complete"]:
                log(f"{session}: {page['reason']}; what the history does not show is not indexed")
            yield page["messages"]
            if not (page["has_more"] or page.get("next")):
                return
            before = {"before": page.get("next") or page["messages"][0]["id"]}

    def ttl_days(self):
        return self.get("/api/storage/status")["mongo"]["ttl_days"]
