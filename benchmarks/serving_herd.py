"""Slow clients, in a process of their own: silent, slow in the head, slow in the body, not reading.

    python benchmarks/serving_herd.py PORT --clients 1000

Prints ``ready`` when all have connected once; goes on until it is ended. Loopback only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from serving_client import Target, close

KINDS = "silent, slow head, slow body, 3 MB asked for and never read"


async def _slow(target: Target, number: int, connected: list[int]) -> None:
    """A client that sends or reads next to nothing, again and again."""
    kind = number % 4
    while True:
        with contextlib.suppress(OSError, EOFError):
            reader, writer = await target.connect()
            connected.append(number)
            chat = target.chat("slow 600 1 5000", stream=True)
            try:
                if kind == 3:  # never reads its 3 MB
                    reader._limit = 1
                    writer.write(chat)
                    await asyncio.sleep(30)
                else:
                    sent = 0 if kind == 0 else 60 if kind == 1 else chat.index(b"\r\n\r\n") + 8
                    writer.write(chat[:sent])
                    while not reader.at_eof():
                        await asyncio.sleep(3)
                        writer.write(chat[sent : sent + 1])
                        sent += 1
                        await writer.drain()
            finally:
                close(writer, abort=True)
        await asyncio.sleep(1)


async def _herd(target: Target, clients: int) -> None:
    connected: list[int] = []
    tasks = [asyncio.create_task(_slow(target, number, connected)) for number in range(clients)]
    while len(connected) < clients:
        await asyncio.sleep(0.1)
    print("ready", flush=True)
    await asyncio.gather(*tasks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--clients", type=int, default=1000)
    arguments = parser.parse_args()
    asyncio.run(_herd(Target(arguments.port, 0), arguments.clients))


if __name__ == "__main__":
    main()
