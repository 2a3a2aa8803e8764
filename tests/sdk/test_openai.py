"""The official OpenAI SDK with nothing changed but base URL and key."""

import asyncio
import json
import urllib.request

import openai
import pytest
from conftest import admin
from upstream import TOOL_CALL, USAGE, WORDS

HELLO = [{"role": "user", "content": "Say that all is well."}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
]
ALL = "".join(WORDS)


def asynchronous(gateway, key):
    return openai.AsyncOpenAI(base_url=f"{gateway.base}/v1", api_key=key, max_retries=0)


# --- answers -----------------------------------------------------------------------------------------------------------------


def test_a_completion(client):
    answer = client.chat.completions.create(model="chat", messages=HELLO)
    assert answer.choices[0].message.content == ALL
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == USAGE["total_tokens"]
    assert answer.system_fingerprint == "fp_kept"


async def test_completions_by_the_asynchronous_client(gateway, key):
    async with asynchronous(gateway, key) as client:
        calls = (client.chat.completions.create(model="chat", messages=HELLO) for _ in range(20))
        for answer in await asyncio.gather(*calls):
            assert answer.choices[0].message.content == ALL


def test_a_stream(client):
    stream = client.chat.completions.create(model="chat", messages=HELLO, stream=True)
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == ALL
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(c.usage is None for c in chunks)


async def test_a_stream_by_the_asynchronous_client(gateway, key):
    async with asynchronous(gateway, key) as client:
        stream = await client.chat.completions.create(model="chat", messages=HELLO, stream=True)
        assert "".join([c.choices[0].delta.content or "" async for c in stream]) == ALL


def test_a_stream_with_usage(client):
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="chat", messages=HELLO, stream=True, stream_options=options))
    assert [c.usage.total_tokens for c in chunks if c.usage] == [USAGE["total_tokens"]]
    assert chunks[-1].choices == []


def test_the_streaming_helper(client):
    with client.chat.completions.stream(model="chat", messages=HELLO) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content == ALL


def test_leaving_a_stream_early(client):
    with client.chat.completions.create(model="chat", messages=HELLO, stream=True) as stream:
        assert next(iter(stream)).choices
    assert client.chat.completions.create(model="chat", messages=HELLO).choices


def test_the_raw_response_has_the_gateways_headers(client):
    raw = client.chat.completions.with_raw_response.create(model="chat", messages=HELLO)
    assert raw.headers["x-breakwater-endpoint"] == "ok"
    assert raw.headers["x-breakwater-attempts"] == "1"
    assert float(raw.headers["x-breakwater-cost-usd"]) == pytest.approx(20e-6)
    assert raw.headers["x-breakwater-request-id"].startswith("req_")
    assert raw.parse().choices[0].message.content == ALL


def test_failover_is_invisible_but_for_the_header(client):
    raw = client.chat.completions.with_raw_response.create(model="fallback", messages=HELLO)
    assert (raw.headers["x-breakwater-endpoint"], raw.headers["x-breakwater-attempts"]) == ("ok", "2")
    assert raw.parse().choices[0].message.content == ALL


# --- tools -------------------------------------------------------------------------------------------------------------------


def test_tool_calls_pass_through(client, upstream):
    answer = client.chat.completions.create(model="tools", messages=HELLO, tools=TOOLS, tool_choice="auto")
    call = answer.choices[0].message.tool_calls[0]
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.id == TOOL_CALL["id"]
    assert call.function.name == TOOL_CALL["function"]["name"]
    assert call.function.arguments == TOOL_CALL["function"]["arguments"]
    sent = upstream.seen[-1][1]
    assert sent["tools"] == TOOLS and sent["tool_choice"] == "auto"


def test_streamed_tool_calls_pass_through(client):
    stream = client.chat.completions.create(model="tools", messages=HELLO, tools=TOOLS, stream=True)
    arguments, name, finish = "", None, None
    for chunk in stream:
        choice = chunk.choices[0]
        finish = choice.finish_reason or finish
        for call in choice.delta.tool_calls or []:
            name = call.function.name or name
            arguments += call.function.arguments or ""
    assert (name, finish) == ("get_weather", "tool_calls")
    assert json.loads(arguments) == {"city": "Zürich", "days": 3}


def test_a_tools_answer_goes_back_upstream(client, upstream):
    conversation = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
        {"role": "tool", "tool_call_id": TOOL_CALL["id"], "content": '{"sky": "clear"}'},
    ]
    client.chat.completions.create(model="chat", messages=conversation, tools=TOOLS)
    assert upstream.seen[-1][1]["messages"] == conversation


# --- errors ------------------------------------------------------------------------------------------------------------------


def test_a_wrong_key(gateway):
    client = openai.OpenAI(base_url=f"{gateway.base}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as error:
        client.chat.completions.create(model="chat", messages=HELLO)
    assert error.value.code == "invalid_api_key"


def test_a_model_that_the_key_may_not_use(gateway):
    secret = admin(gateway, "POST", "/admin/keys", {"name": "narrow", "models": ["chat"]})["secret"]
    client = openai.OpenAI(base_url=f"{gateway.base}/v1", api_key=secret, max_retries=0)
    with pytest.raises(openai.PermissionDeniedError) as error:
        client.chat.completions.create(model="other", messages=HELLO)
    assert error.value.code == "model_not_allowed"


def test_an_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="nobody", messages=HELLO)
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


def test_a_bad_request(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="chat", messages=HELLO, temperature=9)
    assert (error.value.code, error.value.param) == ("invalid_request", "temperature")


def test_a_body_that_is_too_large(client):
    with pytest.raises(openai.APIStatusError) as error:
        client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "x" * 22_000_000}])
    assert (error.value.status_code, error.value.code) == (413, "request_too_large")


def test_a_keys_rate_limit(gateway):
    secret = admin(gateway, "POST", "/admin/keys", {"name": "slow", "rpm": 6})["secret"]
    client = openai.OpenAI(base_url=f"{gateway.base}/v1", api_key=secret, max_retries=0)
    with pytest.raises(openai.RateLimitError) as error:
        for _ in range(5):
            client.chat.completions.create(model="chat", messages=HELLO)
    assert error.value.code == "rate_limit_exceeded"
    assert int(error.value.response.headers["retry-after"]) >= 1


def test_a_spent_budget_is_not_asked_again(gateway):
    """The SDK repeats a 429 by itself, unless it is told that that is in vain."""
    budget = {"amount_usd": "0.000001", "period": "total"}
    secret = admin(gateway, "POST", "/admin/keys", {"name": "poor", "budget": budget})["secret"]
    with openai.OpenAI(base_url=f"{gateway.base}/v1", api_key=secret, max_retries=3) as client:
        before = answered(gateway, "4xx")
        with pytest.raises(openai.RateLimitError) as raised:
            client.chat.completions.create(model="chat", messages=HELLO)
        assert raised.value.code == "budget_exceeded"
        assert raised.value.response.headers["x-should-retry"] == "false"
        assert answered(gateway, "4xx") == before + 1


def answered(gateway, status_class):
    """How many requests the gateway has answered with statuses of the class."""
    with urllib.request.urlopen(f"{gateway.base}/metrics", timeout=10) as metrics:
        wanted = f'breakwater_requests_total{{class="{status_class}"}} '
        lines = metrics.read().decode().splitlines()
    return int(next(line for line in lines if line.startswith(wanted)).removeprefix(wanted))


def test_an_upstreams_rate_limit(client):
    with pytest.raises(openai.RateLimitError) as error:
        client.chat.completions.create(model="status-429", messages=HELLO)
    assert 1 <= int(error.value.response.headers["retry-after"]) <= 8


def test_an_upstream_that_fails(client):
    with pytest.raises(openai.InternalServerError) as error:
        client.chat.completions.create(model="status-500", messages=HELLO, extra_body={"breakwater": {"max_attempts": 1}})
    assert (error.value.status_code, error.value.code) == (502, "upstream_failed")


def test_an_upstream_that_refuses_our_key_is_not_the_callers_fault(client):
    with pytest.raises(openai.InternalServerError) as error:
        client.chat.completions.create(model="status-401", messages=HELLO)
    assert error.value.status_code == 502


@pytest.mark.parametrize(("status", "exception"), [(400, openai.BadRequestError), (422, openai.UnprocessableEntityError)])
def test_an_upstreams_word_about_the_request(client, status, exception):
    with pytest.raises(exception) as error:
        client.chat.completions.create(model=f"status-{status}", messages=HELLO)
    assert (error.value.code, error.value.param) == ("scripted", "tools[0]")


def test_a_stream_that_is_cut_raises(client):
    text = ""
    with pytest.raises(openai.APIError):
        for chunk in client.chat.completions.create(model="cut", messages=HELLO, stream=True):
            text += chunk.choices[0].delta.content or ""
    assert ALL.startswith(text) and text


# --- hints and models --------------------------------------------------------------------------------------------------------


def test_hints_by_extra_body_and_extra_headers(client, upstream):
    hints = {"breakwater": {"request_id": "mine-1", "tag": "team=blue"}}
    raw = client.chat.completions.with_raw_response.create(model="chat", messages=HELLO, extra_body=hints)
    assert raw.headers["x-breakwater-request-id"] == "mine-1"
    headers = {"x-breakwater-request-id": "mine-2"}
    raw = client.chat.completions.with_raw_response.create(model="chat", messages=HELLO, extra_headers=headers)
    assert raw.headers["x-breakwater-request-id"] == "mine-2"
    for sent_headers, sent in upstream.seen:
        assert "breakwater" not in sent
        assert not any(name.lower().startswith("x-breakwater") for name in sent_headers)


def test_a_bad_hint(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="chat", messages=HELLO, extra_body={"breakwater": {"strategy": "cheapest"}})
    assert "strategy" in error.value.param


def test_models(client):
    ids = [model.id for model in client.models.list()]
    assert {"chat", "other", "fallback"} <= set(ids)
    assert client.models.retrieve("chat").id == "chat"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


# --- the demo ----------------------------------------------------------------------------------------------------------------


def test_the_demo_answers_without_a_key(demo_client):
    models = [model.id for model in demo_client.models.list()]
    assert models
    raw = demo_client.chat.completions.with_raw_response.create(model=models[0], messages=HELLO)
    assert raw.parse().choices[0].message.content
    assert float(raw.headers["x-breakwater-cost-usd"]) > 0


def test_the_demo_streams(demo_client):
    model = next(iter(demo_client.models.list())).id
    stream = demo_client.chat.completions.create(model=model, messages=HELLO, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in stream)


@pytest.mark.parametrize("model", ["deepseek-v3.2", "gemini-2.5-flash", "gpt-4.1", "claude-sonnet-4.5"])
def test_the_demo_has_the_four_models(demo_client, model):
    assert demo_client.chat.completions.create(model=model, messages=HELLO).choices[0].message.content
