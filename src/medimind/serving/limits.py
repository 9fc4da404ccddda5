"""Every bound that the server puts on what is sent to it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of requests, connections and time.

    Attributes:
        parallel: Outputs generated at a time.
        queue: Requests that may wait beyond those; more are refused with 429.
        queue_seconds: Longest wait.
        request_seconds: Longest generation.
        body_bytes: Largest request body.
        messages: Most messages of a chat.
        max_tokens: Longest output; what a request without ``max_tokens`` gets.
        read_seconds: From the first byte of a request, or a connection's start, to the request's
            last byte.
        write_seconds: That a client may leave its full buffer unread.
        connections: Open at a time; more are closed at once.
        forecast_bytes: Largest file of records.
        forecast_queue: Forecasts that may wait beside the one being made, their files in memory.
        forecast_seconds: Longest forecast.
        grace_seconds: That running answers get when the server is stopped.
    """

    parallel: int = 1
    queue: int = 32
    queue_seconds: float = 60.0
    request_seconds: float = 600.0
    body_bytes: int = 256 << 10
    messages: int = 256
    max_tokens: int = 4096
    read_seconds: float = 15.0
    write_seconds: float = 20.0
    connections: int = 4096
    forecast_bytes: int = 8 << 20
    forecast_queue: int = 8
    forecast_seconds: float = 30.0
    grace_seconds: float = 10.0
