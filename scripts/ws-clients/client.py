"""What scripts/ws-clients.sh says with Python's websockets: HOST:PORT [TOKEN]."""

import asyncio
import json
import sys

import websockets

HOST = sys.argv[1]
HEADERS = {"Authorization": f"Bearer {sys.argv[2]}"} if len(sys.argv) > 2 else {}


async def event(socket, *kinds):
    while True:
        came = json.loads(await asyncio.wait_for(socket.recv(), 60))
        if came["type"] in kinds:
            return came


async def main():
    def connect(more=""):
        url = f"ws://{HOST}/ws/chat?session_id=python{more}"
        return websockets.connect(url, additional_headers=HEADERS, open_timeout=60)

    async with connect() as one, connect() as other:
        welcome = await event(one, "system")
        assert welcome["session_id"] == "python", welcome
        await event(other, "system")
        await one.send(json.dumps({"message": "grüße 😀", "client_id": "c"}))
        ack, response = await event(one, "ack"), await event(one, "response")
        assert ack["client_id"] == "c" and response["message"] == "grüße 😀", (ack, response)
        seen = await event(other, "message")
        assert seen["id"] == ack["id"], (seen, ack)
        last = (await event(other, "response"))["id"]
        pong = await one.ping()
        await asyncio.wait_for(pong, 60)
        await other.close()
        for n in range(3):
            await one.send(json.dumps({"message": f"missed {n}"}))
            await event(one, "response")
    async with connect(f"&after={last}") as resumed:
        for n in range(3):
            for _ in range(2):
                assert (came := await event(resumed, "message"))["text"] == f"missed {n}", came
                assert came["replayed"], came
    print("ok")


asyncio.run(main())
