"""An upstream that speaks OpenAI's chat completions and does what the model's name says.

The gateway's endpoints name models such as `ok`, `tools` or `status-429`; this server keeps every request it gets.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
WORDS = ["All ", "is ", "well ", "here."]
TOOL_CALL = {
    "id": "call_abc123",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Zürich", "days": 3}'},
}


def completion(message, finish_reason):
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "scripted",
        "system_fingerprint": "fp_kept",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
        "usage": USAGE,
    }


def chunk(delta, finish_reason=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "scripted",
        "choices": [choice],
        "usage": None,
    }


def text_chunks():
    yield chunk({"role": "assistant", "content": ""})
    for word in WORDS:
        yield chunk({"content": word})
    yield chunk({}, "stop")


def tool_chunks():
    name = TOOL_CALL["function"]["name"]
    head = {"index": 0, "id": TOOL_CALL["id"], "type": "function", "function": {"name": name, "arguments": ""}}
    yield chunk({"role": "assistant", "content": None, "tool_calls": [head]})
    arguments = TOOL_CALL["function"]["arguments"]
    for start in range(0, len(arguments), 7):
        piece = {"index": 0, "function": {"arguments": arguments[start : start + 7]}}
        yield chunk({"tool_calls": [piece]})
    yield chunk({}, "tool_calls")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Says nothing: the tests look at `seen`."""

    def do_GET(self):
        self.answer(200, {"object": "list", "data": []})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append((dict(self.headers.items()), body))
        kind, _, argument = body["model"].partition("-")
        if kind == "status":
            status = int(argument)
            error = {"message": f"scripted {status}", "type": "invalid_request_error", "param": "tools[0]", "code": "scripted"}
            self.answer(status, {"error": error}, {"retry-after": "7"} if status == 429 else {})
        elif body.get("stream"):
            self.stream(tool_chunks() if kind == "tools" else text_chunks(), cut=kind == "cut")
        elif kind == "tools":
            self.answer(200, completion({"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}, "tool_calls"))
        else:
            self.answer(200, completion({"role": "assistant", "content": "".join(WORDS)}, "stop"))

    def answer(self, status, body, headers=None):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def stream(self, chunks, cut):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for n, event in enumerate(chunks):
            if cut and n == 3:
                self.close_connection = True
                return
            self.event(json.dumps(event))
        self.event(json.dumps({**chunk({}), "choices": [], "usage": USAGE}))
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, data):
        text = f"data: {data}\n\n".encode()
        self.wfile.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")


class Upstream(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"
