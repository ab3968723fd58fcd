"""What OpenAPI cannot say of chatkeep's calls, or schemathesis does not read, each with its reason."""

import json

import schemathesis


@schemathesis.hook
def before_load_schema(_context, schema):
    # OpenAPI 3.1 describes the text of a stream as a whole; schemathesis compares each event with that.
    for path in schema["paths"].values():
        for call in path.values():
            for response in call.get("responses", {}).values() if isinstance(call, dict) else ():
                response.get("content", {}).get("text/event-stream", {}).pop("schema", None)
    # It repeats the field of an array in a form, although `encoding` says that it is JSON.
    form = schema["components"]["schemas"]["NewMessageForm"]["properties"]
    form["vector_ids"] = {"type": "string", "enum": ["[]", '["v1"]']}
    # The lines of an import are a text in OpenAPI; here they are made from what each may be.
    lines = schema["paths"]["/api/chat/import"]["post"]["requestBody"]["content"]["application/x-ndjson"]
    lines["schema"] = {"type": "array", "items": {"$ref": "#/components/schemas/ImportLine"}}


@schemathesis.serializer("application/x-ndjson")
def lines(_context, value):
    values = value if isinstance(value, list) else [value]
    return "".join(f"{json.dumps(line)}\n" for line in values).encode()


@schemathesis.hook
def filter_case(_context, case):
    query = case.query if isinstance(case.query, dict) else {}
    body = case.body if isinstance(case.body, dict) else {}
    if case.meta is not None and not case.meta.generation.mode.is_positive:
        return True
    # One parameter forbids another: 422.
    if case.operation.path == "/api/chat/history" and query.get("view") == "current" and "after" in query:
        return False
    # OpenAPI has no bound for times: outside of 1970 to 2099 it is 422.
    if case.operation.path == "/api/chat/import" and not "1970" <= query.get("time", "1970")[:4] < "2100":
        return False
    # The id may be one that the session does not have: 422, as for a rewind without a message.
    return not (case.operation.path == "/api/chat" and body.get("rewind_to") not in (None, "null"))
