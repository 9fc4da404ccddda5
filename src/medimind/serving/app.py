"""The ASGI application: routes inside, guards around them."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from medimind import __version__
from medimind.serving import chat, forecast, pages
from medimind.serving.access import Access
from medimind.serving.app_files import STATIC, AppFiles
from medimind.serving.body import BodyLimit
from medimind.serving.failures import handle_failures
from medimind.serving.guard import CHATS, FORECASTS, PlaceGuard, Places, QueueGuard, TokenGuard
from medimind.serving.headers import StrictHeaders
from medimind.serving.metrics import CountRequests
from medimind.serving.serving import Serving


def build_app(
    serving: Serving,
    *,
    access: Access,
    places: Places,
    static: Path = STATIC,
    authority: Path | None = None,
) -> FastAPI:
    """The application.

    Args:
        serving: What the routes share.
        access: Who may ask.
        places: Hosts and origins that may be asked from.
        static: The built phone app.
        authority: Certificate that phones may fetch and trust.
    """
    guards = [
        Middleware(StrictHeaders),
        Middleware(CountRequests, metrics=serving.metrics),
        Middleware(PlaceGuard, places=places),
    ]
    if places.origins:
        guards.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(places.origins),
                allow_methods=["GET", "HEAD", "POST"],
                allow_headers=["Authorization", "Content-Type", "Range"],
                expose_headers=["Retry-After", "ETag", "Content-Range"],
            )
        )
    guards.append(Middleware(TokenGuard, access=access))
    queues = {CHATS: serving.admission}
    if serving.forecaster is not None:
        queues[FORECASTS] = serving.forecaster.admission
    guards.append(Middleware(QueueGuard, queues=queues))
    files = {FORECASTS: serving.limits.forecast_bytes}
    guards.append(Middleware(BodyLimit, most_bytes=serving.limits.body_bytes, by_path=files))
    app = FastAPI(
        title="MediMind",
        version=__version__,
        middleware=guards,
        openapi_url=None,  # under /api, where a token is wanted
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        # Off whatever the environment says: nothing leaves the machine.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    app.state.serving = serving
    handle_failures(app)
    app.include_router(chat.router)
    app.include_router(forecast.router)
    app.include_router(pages.open_router)
    app.include_router(pages.closed)
    if authority is not None:
        pages.offer_authority(app, authority)
    app.mount("/", AppFiles(static))
    return app
