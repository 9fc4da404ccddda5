"""The forecaster's process when it hangs, dies or babbles, and the queue before it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest
from serving_stub import RawClient, client, make_app, make_serving

from medimind.serving.forecast_process import ForecastProcess
from medimind.serving.limits import Limits

URL = "/api/forecast"


@pytest.fixture(autouse=True)
def _stub_can_be_found(monkeypatch):
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@contextlib.asynccontextmanager
async def running(tmp_path, **bounds):
    limits = Limits(**bounds)
    process = ForecastProcess(tmp_path, mapping=None, limits=limits, module="stub_forecaster")
    await process.start()
    try:
        yield process, make_app(make_serving(forecaster=process, limits=limits))
    finally:
        await process.close()


async def until(holds):
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


async def ready_again(process, *, restarts):
    await until(lambda: process.process.num_restarts >= restarts and process.is_ready)


def test_what_hangs_is_ended_in_time(tmp_path):
    async def go():
        async with running(tmp_path, forecast_seconds=0.3) as (process, app), client(app) as http:
            response = await http.post(URL, content="hang")
            assert (response.status_code, response.json()["error"]["code"]) == (503, "timeout")
            assert int(response.headers["retry-after"]) >= 1
            await ready_again(process, restarts=1)
            assert process.admission.num_served == 0

    asyncio.run(go())


def test_what_dies_or_babbles_is_told_and_started_again(tmp_path):
    async def go():
        async with running(tmp_path) as (process, app), client(app) as http:
            for restarts, content in enumerate(["die", "babble"], 1):
                response = await http.post(URL, content=content)
                told = response.status_code, response.json()["error"]["code"]
                assert told == (503, "engine_stopped")
                await ready_again(process, restarts=restarts)
                assert (await http.post(URL, content=b"x" * 300_000)).json() == {"length": 300_000}
            refused = await http.post(URL, content="refuse")
            assert (refused.status_code, refused.json()["error"]["message"]) == (400, "no")
            assert process.process.num_restarts == 2
            assert process.admission.num_served == 0

    asyncio.run(go())


def test_hanging_up_frees_the_place_at_once_and_the_process_soon(tmp_path):
    async def go():
        async with running(tmp_path) as (process, app):
            gone = RawClient(app, content=b"hang", path=URL)
            await until(lambda: process.admission.num_served == 1)
            await gone.hang_up()
            assert process.admission.num_served == 0
            async with client(app) as http, asyncio.timeout(25):  # its own limit would be 30
                assert (await http.post(URL, content=b"abc")).json() == {"length": 3}
            assert process.process.num_restarts == 1

    asyncio.run(go())


def test_one_at_a_time_and_no_more_than_may_wait(tmp_path):
    async def go():
        async with running(tmp_path, forecast_queue=1) as (process, app), client(app) as http:
            first = RawClient(app, content=b"hang", path=URL)
            await until(lambda: process.admission.num_served == 1)
            second = asyncio.create_task(http.post(URL, content=b"abc"))
            await until(lambda: process.admission.num_served == 2)
            third = await http.post(URL, content=b"x")
            assert (third.status_code, third.json()["error"]["code"]) == (429, "queue_full")
            await first.hang_up()
            assert (await second).json() == {"length": 3}

    asyncio.run(go())


def test_waiting_for_a_forecast_ends(tmp_path):
    async def go():
        async with running(tmp_path, queue_seconds=0.1) as (process, app), client(app) as http:
            first = RawClient(app, content=b"hang", path=URL)
            await until(lambda: process.admission.num_served == 1)
            late = await http.post(URL, content=b"x")
            assert (late.status_code, late.json()["error"]["code"]) == (503, "timeout")
            await first.hang_up()

    asyncio.run(go())


def test_a_client_that_goes_while_it_sends_is_no_error(tmp_path):
    class Gone(RawClient):
        async def _receive(self):
            return {"type": "http.disconnect"}

    async def go():
        async with running(tmp_path) as (process, app):
            gone = Gone(app, path=URL)
            await asyncio.wait_for(gone.task, 25)
            assert gone.status == 499
            assert process.admission.num_served == 0
            text = app.state.serving.metrics.text().decode()
            assert 'medimind_forecasts_total{outcome="hung_up"} 1.0' in text

    asyncio.run(go())


def test_a_large_file_is_refused_and_chats_keep_their_own_bound(tmp_path):
    async def go():
        bounds = {"forecast_bytes": 1000, "body_bytes": 100}
        async with running(tmp_path, **bounds) as (_, app), client(app) as http:
            assert (await http.post(URL, content=b"x" * 1000)).json() == {"length": 1000}
            for url, size in ((URL, 1001), ("/v1/chat/completions", 101)):
                response = await http.post(url, content=b"x" * size)
                assert response.status_code == 413, url

            async def parts():  # without a length, so that it shows only when it is read
                for _ in range(11):
                    yield b"x" * 100

            assert (await http.post(URL, content=parts())).status_code == 413
            text = app.state.serving.metrics.text().decode()
            assert 'medimind_forecasts_total{outcome="body_too_large"} 1.0' in text

    asyncio.run(go())


def test_a_forecaster_of_very_many_codes_can_greet(tmp_path):
    async def go():
        async with running(tmp_path) as (_, app), client(app) as http:
            assert len((await http.get(URL)).json()["example"]) == 300_000

    asyncio.run(go())


def test_a_stopping_server_makes_no_more_forecasts(tmp_path):
    async def go():
        async with running(tmp_path) as (process, app), client(app) as http:
            process.admission.close()
            response = await http.post(URL, content=b"x")
            assert (response.status_code, response.json()["error"]["code"]) == (503, "stopping")

    asyncio.run(go())
