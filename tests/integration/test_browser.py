"""What a browser needs of the real Envoy: CORS by an allow-list, and gRPC-Web."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from antiphon.v1 import generator_pb2
from services.stack import edge
from services.stack.stack import Stack
from tests.integration import plain_service, web

PAGE = "https://studio.example"
SERVICE = "/antiphon.v1.GeneratorService"
Models = generator_pb2.GeneratorServiceListModelsResponse


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    patch = edge.allowed([PAGE, "http://localhost:5173"])
    folder = tmp_path_factory.mktemp("browser")
    with Stack(services=["generator"], commands=plain_service.commands(), folder=folder, patch=patch) as running:
        yield running


def preflight(stack: Stack, origin: str, path: str, asked: str = "content-type,x-grpc-web,grpc-timeout") -> web.Reply:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": asked,
    }
    return web.call(stack, "OPTIONS", path, headers=headers)


@pytest.mark.parametrize("path", [f"{SERVICE}/OpenGeneration", "/generate/music", "/health"])
def test_a_listed_page_may_ask_for_anything(plain: Stack, path: str) -> None:
    reply = preflight(plain, PAGE, path)
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert "POST" in reply.headers["access-control-allow-methods"]
    allowed = set(reply.headers["access-control-allow-headers"].split(","))
    assert {"content-type", "x-grpc-web", "grpc-timeout", "authorization", "x-antiphon-stream"} <= allowed
    assert "access-control-allow-credentials" not in reply.headers


@pytest.mark.parametrize("origin", ["https://evil.example", f"{PAGE}.evil", "http://studio.example", "null"])
def test_another_page_may_not(plain: Stack, origin: str) -> None:
    for reply in (
        preflight(plain, origin, "/generate/music"),
        web.call(plain, "POST", f"{SERVICE}/ListModels", web.framed(Models()), {"origin": origin, **GRPC_WEB}),
    ):
        assert not [name for name in reply.headers if name.startswith("access-control-")]


GRPC_WEB = {"content-type": web.GRPC_WEB, "x-grpc-web": "1"}


def test_grpc_web_is_answered_to_a_listed_page(plain: Stack) -> None:
    empty = generator_pb2.GeneratorServiceListModelsRequest()
    headers = {"origin": PAGE, **GRPC_WEB}
    with web.opened(plain, "POST", f"{SERVICE}/ListModels", web.framed(empty), headers) as reply:
        assert reply.headers["access-control-allow-origin"] == PAGE
        exposed = set(reply.headers["access-control-expose-headers"].split(","))
        assert {"grpc-status", "grpc-message", "grpc-status-details-bin"} <= exposed
        assert {"x-request-id", "x-antiphon-stream"} <= exposed
        assert reply.headers["content-type"] == web.GRPC_WEB
        (_, message), (is_end, end) = web.frames(reply)
    assert Models.FromString(message).models[0].name == "generator"
    assert is_end
    assert web.trailers(end)["grpc-status"] == "0"


def test_an_error_of_rest_is_readable_by_the_page(plain: Stack) -> None:
    reply = web.call(plain, "POST", "/nothing", {}, {"origin": PAGE})
    assert (reply.status, reply.json["code"]) == (404, 5)
    assert reply.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize("origin", ["*", "studio.example", "https://studio.example/", "https://a.example, https://b"])
def test_an_origin_that_is_none_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        edge.allowed([origin])


def test_a_browser_hears_and_steers_a_stream(stack: Stack) -> None:
    """The piece has ten minutes, so it ends by the call that stops it, or the test's time."""
    config = generator_pb2.GenerationConfig(seed=5)
    config.prompts.add(text="calm piano")
    config.duration.FromSeconds(600)
    config.pacing.initial_credit.FromSeconds(1)
    request = generator_pb2.OpenGenerationRequest(config=config)
    with web.opened(stack, "POST", f"{SERVICE}/OpenGeneration", web.framed(request), GRPC_WEB) as reply:
        replica = {"x-antiphon-stream": str(reply.headers["x-antiphon-stream"])}
        messages = (generator_pb2.OpenGenerationResponse.FromString(data) for end, data in web.frames(reply) if not end)
        first = next(messages)
        assert first.response.WhichOneof("response") == "started"

        def control(**command: Any) -> str:
            message = generator_pb2.ControlGenerationRequest(stream_id=first.stream_id, **command)
            body = web.framed(message)
            answer = web.call(stack, "POST", f"{SERVICE}/ControlGeneration", body, {**GRPC_WEB, **replica})
            # An error comes in the headers, success in the trailers of the body.
            return answer.headers.get("grpc-status") or web.trailers(answer.body[10:])["grpc-status"]

        rate = first.response.started.format.sample_rate_hz
        heard = 0
        while heard < rate:
            heard += next(messages).response.audio.sample_count
        assert heard == rate, "the credit is a second"
        update = generator_pb2.GenerationUpdate(prompts=[generator_pb2.WeightedPrompt(text="loud drums")])
        assert control(update=update) == "0"
        credit = generator_pb2.Credit()
        credit.duration.FromSeconds(1)
        assert control(credit=credit) == "0"
        kinds = []
        while heard < 2 * rate:
            response = next(messages).response
            kinds.append(response.WhichOneof("response"))
            heard += response.audio.sample_count
        assert "updated" in kinds
        bad = generator_pb2.GenerationUpdate(sampling=generator_pb2.SamplingParameters(temperature=-1))
        assert control(update=bad) == "3", "a bad command is refused, and the stream goes on"
        stop = generator_pb2.GenerationControl(action=generator_pb2.GenerationControl.ACTION_STOP)
        assert control(control=stop) == "0"
        *_, last = messages
        assert last.response.finished.reason == generator_pb2.GenerationFinished.REASON_STOPPED
        assert control(control=stop) == "5", "the stream is no more"
