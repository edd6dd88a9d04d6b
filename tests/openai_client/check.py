"""The official OpenAI client against a running gateway, unchanged.

Reads BASE_URL (https://host:port/v1), API_KEY, CA_FILE (PEM of the authorities to trust) and MODEL from the environment.
Prints one line per check; the exit status is 0 when all hold.
"""

import os
import ssl
import sys

import openai

# Far above what any answer here takes, so that a gateway that hangs is a failure and not a wait.
TIMEOUT_S = 120.0
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
GREEDY = {"temperature": 0, "seed": 7}


def client(api_key: str) -> openai.OpenAI:
    """A client as its documentation shows it, but for our own certificate authority."""
    trust = ssl.create_default_context(cafile=os.environ["CA_FILE"])
    http_client = openai.DefaultHttpxClient(verify=trust, timeout=TIMEOUT_S)
    return openai.OpenAI(base_url=os.environ["BASE_URL"], api_key=api_key, http_client=http_client, max_retries=0)


def expect(error_type: type, call) -> openai.APIStatusError:
    """The error of `call`, which must be of this type."""
    try:
        call()
    except error_type as error:
        return error
    raise AssertionError(f"expected {error_type.__name__}, but the call succeeded")


def models(api: openai.OpenAI, model: str) -> None:
    listed = [entry.id for entry in api.models.list()]
    assert model in listed, f"{model} is not among {listed}"
    one = api.models.retrieve(model)
    assert one.id == model and one.object == "model" and one.created > 0 and one.owned_by, one
    error = expect(openai.NotFoundError, lambda: api.models.retrieve("no-such-model"))
    assert error.code == "model_not_found", error.body


def whole_chat(api: openai.OpenAI, model: str) -> str:
    answer = api.chat.completions.create(model=model, messages=QUESTION, max_tokens=32, **GREEDY)
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-"), answer
    assert choice.message.role == "assistant" and choice.message.content, answer
    assert choice.finish_reason in ("stop", "length"), answer
    usage = answer.usage
    assert usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 32, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
    return choice.message.content


def streamed_chat(api: openai.OpenAI, model: str, whole: str) -> None:
    stream = api.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=32, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    chunks = list(stream)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1, "id, created and model must not change"
    assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
    last = chunks[-1]
    assert not last.choices and last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens, last
    assert all(chunk.usage is None for chunk in chunks[:-1]), "only the last chunk has the usage"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole, f"streamed {text!r}, whole {whole!r}"
    assert chunks[-2].choices[0].finish_reason in ("stop", "length"), chunks[-2]


def parts_and_limits(api: openai.OpenAI, model: str) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello"}]}]
    answer = api.chat.completions.create(model=model, messages=parts, max_completion_tokens=3, **GREEDY)
    assert answer.usage.completion_tokens <= 3, answer.usage


def several_choices(api: openai.OpenAI, model: str, whole: str) -> None:
    answer = api.chat.completions.create(model=model, messages=QUESTION, max_tokens=32, n=2, **GREEDY)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [(0, whole), (1, whole)], answer


def stop_string(api: openai.OpenAI, model: str, whole: str) -> None:
    stop = whole[len(whole) // 2 :][:4]
    answer = api.chat.completions.create(model=model, messages=QUESTION, max_tokens=32, stop=[stop], **GREEDY)
    choice = answer.choices[0]
    assert choice.finish_reason == "stop" and choice.message.content == whole[: whole.index(stop)], (stop, answer)


def text_completion(api: openai.OpenAI, model: str) -> None:
    answer = api.completions.create(model=model, prompt="One, two, three,", max_tokens=4, **GREEDY)
    assert answer.object == "text_completion" and answer.choices[0].text, answer
    chunks = list(api.completions.create(model=model, prompt="One, two, three,", max_tokens=4, stream=True, **GREEDY))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text, chunks


def errors(api: openai.OpenAI, model: str) -> None:
    def ask(**fields):
        return lambda: api.chat.completions.create(**{"model": model, "messages": QUESTION, "max_tokens": 4, **fields})

    error = expect(openai.AuthenticationError, lambda: client("not-a-key").models.list())
    assert error.code == "invalid_api_key", error.body
    error = expect(openai.NotFoundError, ask(model="no-such-model"))
    assert error.code == "model_not_found" and error.param == "model", error.body
    for fields, param in [
        ({"n": 9}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"messages": []}, "messages"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ]:
        error = expect(openai.BadRequestError, ask(**fields))
        assert error.param == param and error.type == "invalid_request_error", error.body
    error = expect(openai.BadRequestError, ask(messages=[{"role": "user", "content": "word " * 200_000}]))
    assert error.code == "context_length_exceeded", error.body


def main() -> int:
    model = os.environ["MODEL"]
    api = client(os.environ["API_KEY"])
    models(api, model)
    print("ok: models")
    whole = whole_chat(api, model)
    print(f"ok: whole chat: {whole!r}")
    streamed_chat(api, model, whole)
    print("ok: streamed chat")
    parts_and_limits(api, model)
    print("ok: content parts, max_completion_tokens")
    stop_string(api, model, whole)
    several_choices(api, model, whole)
    print("ok: stop string")
    text_completion(api, model)
    print("ok: text completion")
    errors(api, model)
    print("ok: errors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
