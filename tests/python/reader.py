"""Reads chatkeep's collection as a program for the Python system would: pymongo for the documents, motor for a page.

Gets {"uri", "database", "collection", "session", "ttl_days", "messages": [what the history shows, oldest first]} on stdin,
checks all of it, and prints "read N messages". It knows nothing of chatkeep but the form of the documents.
"""

import asyncio
import json
import sys
from datetime import datetime, timedelta, timezone

import pymongo
from motor.motor_asyncio import AsyncIOMotorClient

FIELDS = ["_id", "session_id", "role", "text", "metadata", "vector_ids", "created_at", "expires_at"]


def check(holds, what):
    if not holds:
        sys.exit(f"{what} is not as it should be")


def check_document(document, wanted, ttl_days):
    fields = FIELDS if ttl_days else FIELDS[:-1]
    check(list(document) == fields, f"the fields of {document}")
    for field in ["_id", "session_id", "role", "text", "created_at"]:
        check(type(document[field]) is str, f"the type of {field} in {document}")
    check(type(document["metadata"]) is dict, f"the type of metadata in {document}")
    check(type(document["vector_ids"]) is list, f"the type of vector_ids in {document}")
    created = datetime.fromisoformat(document["created_at"])
    check(created.utcoffset() == timedelta(0), f"the zone of {document['created_at']}")
    check(created.isoformat(timespec="microseconds") == document["created_at"], f"the form of {document['created_at']}")
    check(document["_id"] == wanted["id"], f"the id of {document}, which is {wanted['id']}")
    for field in ["session_id", "role", "text", "created_at", "metadata"]:
        check(document[field] == wanted[field], f"{field} of {document}, which is {wanted[field]}")
    check(document["vector_ids"] == wanted.get("vector_ids", []), f"vector_ids of {document}")
    if ttl_days:
        expires = document["expires_at"]
        check(type(expires) is datetime, f"the type of expires_at in {document}")
        # BSON dates have milliseconds.
        late = expires.replace(tzinfo=timezone.utc) - created - timedelta(days=ttl_days)
        check(abs(late) <= timedelta(milliseconds=1), f"expires_at of {document}, by {late}")


def check_indexes(collection):
    indexes = {index["name"]: index for index in collection.list_indexes()}
    check(sorted(indexes) == ["_id_", "expires_at_idx", "session_ts_idx"], f"the names of {indexes}")
    of_session, of_expiry = indexes["session_ts_idx"], indexes["expires_at_idx"]
    check(list(of_session["key"].items()) == [("session_id", 1), ("created_at", -1)], f"the key of {of_session}")
    check("expireAfterSeconds" not in of_session, f"the expiry of {of_session}")
    check(list(of_expiry["key"].items()) == [("expires_at", 1)], f"the key of {of_expiry}")
    check(of_expiry["expireAfterSeconds"] == 0, f"the expiry of {of_expiry}")
    # A program that makes the same indexes at its start must not be refused.
    again = [
        pymongo.IndexModel([("session_id", 1), ("created_at", -1)], name="session_ts_idx"),
        pymongo.IndexModel([("expires_at", 1)], name="expires_at_idx", expireAfterSeconds=0),
    ]
    check(collection.create_indexes(again) == ["session_ts_idx", "expires_at_idx"], "making the indexes again")


async def newest(uri, database, collection, session, limit):
    """The newest messages of a session, oldest first."""
    client = AsyncIOMotorClient(uri)
    cursor = client[database][collection].find({"session_id": session}).sort("created_at", -1).limit(limit)
    documents = await cursor.to_list(length=limit)
    client.close()
    return documents[::-1]


def main():
    asked = json.load(sys.stdin)
    uri, database, name = asked["uri"], asked["database"], asked["collection"]
    session, wanted, ttl_days = asked["session"], asked["messages"], asked["ttl_days"]
    with pymongo.MongoClient(uri, serverSelectionTimeoutMS=10_000) as client:
        collection = client[database][name]
        query = collection.find({"session_id": session}).sort("created_at", pymongo.ASCENDING)
        plan = query.clone().explain()["queryPlanner"]["winningPlan"]
        check("session_ts_idx" in json.dumps(plan, default=str), f"the index used by {plan}")
        documents = list(query)
        check(len(documents) == len(wanted), f"the number of documents, {len(documents)} for {len(wanted)} messages,")
        for document, message in zip(documents, wanted):
            check_document(document, message, ttl_days)
        check_indexes(collection)
    for limit in [1, 7, len(wanted), len(wanted) + 10]:
        page = asyncio.run(newest(uri, database, name, session, limit))
        ids = [message["id"] for message in wanted[-limit:]]
        check([document["_id"] for document in page] == ids, f"the newest {limit}")
    print(f"read {len(documents)} messages")


main()
