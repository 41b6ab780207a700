"""A server of the OpenAI protocol's chat completions, in a thread; its answers follow a plan."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

GOOD = {
    "defect_seen": "yes",
    "findings": [
        {
            "type": "bright spot",
            "location": "upper left",
            "box": [250, 500, 125, 1000],
            "appearance": "white square",
            "severity": "minor",
            "confidence": "high",
        }
    ],
}
Plan = Callable[[int, dict[str, Any]], Any]  # number of the request and its body -> a text, or a name of a failure


class Server:
    """What was asked, and how it is answered.

    Attributes:
        plan: gives the model's text, or a status, "close", "slow", "page" (a body that is no JSON) or "307".
        requests: bodies, as they came.
        keys: values of the header Authorization.
        answered: texts that were given, by the digest of the picture that was asked about.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.lock = plan, Lock()
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.answered: Counter[str] = Counter()
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        own: Server = self.server.own
        with own.lock:
            own.requests.append(body)
            own.keys.append(self.headers["Authorization"])
            number = len(own.requests)
        assert self.path == "/v1/chat/completions"
        answer = own.plan(number, body)
        if answer == "close":
            self.close_connection = True
            self.connection.close()
        elif answer == "slow":
            time.sleep(2.2)
            self.close_connection = True
        elif answer == "page":
            self._send(200, b"<html>busy</html>", {"Content-Type": "application/json"})
        elif answer == "307":
            self._send(307, b"", {"Location": "http://127.0.0.1:9/v1/chat/completions"})
        elif answer in ("400", "401", "404", "413", "429", "500"):
            said = {"error": {"message": f"refused {self.headers['Authorization'].removeprefix('Bearer ')}"}}
            self._send(int(answer), json.dumps(said).encode(), {"Content-Type": "application/json"})
        else:
            if is_valid(answer):
                with own.lock:
                    own.answered[digest_of(body)] += 1
            self._send(200, json.dumps(completion(answer)).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


def is_valid(answer: str) -> bool:
    """Whether a planned answer is of the form asked for."""
    return answer == json.dumps(GOOD)


def completion(text: str) -> dict[str, Any]:
    """A chat completion with one text."""
    message = {"role": "assistant", "content": text}
    return {
        **{"id": "1", "object": "chat.completion", "created": 1, "model": "m"},
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }


def pictures_of(body: dict[str, Any]) -> list[bytes]:
    """The JPEGs of a request."""
    parts = body["messages"][0]["content"]
    return [base64.b64decode(part["image_url"]["url"].partition(",")[2]) for part in parts if part["type"] == "image_url"]


def digest_of(body: dict[str, Any]) -> str:
    """Digest of the first picture of a request; of its text where it has none."""
    pictures = pictures_of(body)
    return sha256(pictures[0] if pictures else json.dumps(body["messages"]).encode()).hexdigest()


@contextmanager
def vlm_server(plan: Plan) -> Iterator[Server]:
    """The server on a free port of this machine."""
    own = Server(plan)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.own, server.daemon_threads = own, True  # type: ignore[attr-defined]
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that left
        own.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield own
        finally:
            server.shutdown()
            thread.join()
