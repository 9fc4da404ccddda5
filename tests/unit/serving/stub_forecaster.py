"""A forecaster's process that does what the file tells it to: answer, hang, die or babble."""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    source, target = sys.stdin.buffer, sys.stdout.buffer
    source.readline()
    example = "x" * 300_000  # as of very many codes
    facts = {"address": "", "codes": [], "horizons_days": [30.0], "risks": [], "example": example}
    target.write(json.dumps(facts).encode() + b"\n")
    target.flush()
    while line := source.readline():
        content = source.read(json.loads(line)["bytes"])
        if content == b"die":
            os._exit(9)
        if content == b"hang":
            source.readline()  # nothing comes
        if content == b"babble":
            target.write(b"not JSON\n")
        elif content == b"refuse":
            reply = b'{"message": "no", "code": "invalid_records"}'
            target.write(b'{"bytes": %d, "status": 400}\n' % len(reply) + reply)
        else:
            reply = json.dumps({"length": len(content)}).encode()
            target.write(b'{"bytes": %d, "status": 200}\n' % len(reply) + reply)
        target.flush()


if __name__ == "__main__":
    main()
