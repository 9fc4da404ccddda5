"""What Prometheus may know: counts and times, never a text or a name."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medimind.serving.admission import Admission
from medimind.serving.backend import Backend
from medimind.serving.forecast_process import ForecastProcess

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_GROUPS = (
    "/v1/chat/completions",
    "/v1/models",
    "/api/forecast",
    "/api",
    "/models",
    "/metrics",
    "/healthz",
    "/readyz",
)


class Metrics:
    """The server's metrics, in a registry of their own."""

    def __init__(self, *, admission: Admission, backend: Backend) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "medimind_http_requests", "Requests by address and status.", ["address", "status"],
            registry=self._registry,
        )  # fmt: skip
        self.outcomes = Counter(
            "medimind_chats", "Chats by model and how they ended.", ["model", "outcome"],
            registry=self._registry,
        )  # fmt: skip
        self.tokens = Counter(
            "medimind_tokens", "Tokens read and generated.", ["kind"], registry=self._registry
        )
        self.wait_seconds = Histogram(
            "medimind_wait_seconds", "From a chat's arrival to its turn.", buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self.first_token_seconds = Histogram(
            "medimind_first_token_seconds", "From a chat's turn to its first piece.",
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self.chat_seconds = Histogram(
            "medimind_chat_seconds", "From a chat's turn to its end.", buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self.forecasts = Counter(
            "medimind_forecasts", "Forecasts by how they ended.", ["outcome"],
            registry=self._registry,
        )  # fmt: skip
        self.forecast_seconds = Histogram(
            "medimind_forecast_seconds", "From a forecast's arrival to its end.", buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        for name, text, value in (
            ("medimind_slots_used", "Outputs being generated.", lambda: admission.num_served),
            ("medimind_queue", "Chats that wait.", lambda: admission.num_waiting),
            ("medimind_engine_ready", "Whether the engine answers.", lambda: backend.is_ready),
            ("medimind_engine_restarts", "Restarts of the engine.", lambda: backend.num_restarts),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def watch_forecaster(self, forecaster: ForecastProcess) -> None:
        """Tell of a forecaster too."""
        process, admission = forecaster.process, forecaster.admission
        for name, text, value in (
            (
                "in_hand",
                "Forecasts being made or waiting.",
                lambda: admission.num_served,
            ),
            ("ready", "Whether the forecaster answers.", lambda: forecaster.is_ready),
            ("restarts", "Restarts of the forecaster.", lambda: process.num_restarts),
        ):
            gauge = Gauge(f"medimind_forecaster_{name}", text, registry=self._registry)
            gauge.set_function(value)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)


class CountRequests:
    """Counts requests by a few groups of addresses, so that no client can make up new ones."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"]
                group = next((one for one in _GROUPS if path.startswith(one)), "app")
                self._metrics.requests.labels(group, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, send_counted)
