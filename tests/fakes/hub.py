"""A model hub on this machine, as far as an upload needs one: repositories, with files in git and in LFS."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """`files`: repository -> path -> bytes. `private`: those nobody else sees. `status`: what it answers instead."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.tokens: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self.status: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(10.0)
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_PUT(self) -> None:
        self.server.blobs[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def do_GET(self) -> None:
        self._answer({"error": "not found"}, 404)

    def do_POST(self) -> None:
        body, path = self._body(), self.path.partition("?")[0]
        self.server.tokens.add(self.headers.get("Authorization", ""))
        if self.server.status is not None:
            self._answer({"error": "refused"}, self.server.status)
        elif path == "/api/repos/create":
            self._answer(self._created(json.loads(body)))
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": _mode(f["path"]), "shouldIgnore": False} for f in files]
            self._answer({"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            self._answer(self._batch(json.loads(body)), kind="application/vnd.git-lfs+json")
        elif "/commit/" in path:
            self._answer(self._committed(path, body.decode().splitlines()))
        else:
            self._answer({"error": f"no such call: {path}"}, 404)

    def _created(self, asked):
        name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
        self.server.files.setdefault(name, {})
        if asked.get("private") or asked.get("visibility") == "private":
            self.server.private.add(name)
        return {"url": f"{self.server.url}/{name}", "name": name, "id": name}

    def _batch(self, asked):
        def upload(item):
            return {**item, "actions": {"upload": {"href": f"{self.server.url}/blobs/{item['oid']}"}}}

        return {"transfer": "basic", "objects": [upload(item) for item in asked["objects"]]}

    def _committed(self, path, lines):
        name = path.removeprefix("/api/models/").partition("/commit/")[0]
        for line in map(json.loads, lines):
            value = line["value"]
            if line["key"] == "file":
                self.server.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[name][value["path"]] = self.server.blobs[value["oid"]]
        return {"commitUrl": f"{self.server.url}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40, "success": True}

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, content, status: int = 200, kind: str = "application/json") -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"
