"""Prints every point of the index in the folder that is named, one JSON object a line, by Qdrant's client alone."""

import json
import sys

from qdrant_client import QdrantClient

client = QdrantClient(path=sys.argv[1])
for collection in client.get_collections().collections:
    points, rest = client.scroll(collection.name, limit=1_000_000)
    assert rest is None
    for point in points:
        print(json.dumps({"id": point.id, "collection": collection.name, **point.payload}))
