"""A server that speaks as much of the Hugging Face hub's protocol as downloads need."""

import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by id; each has files by path. Files of 1 kB on are stored as LFS has them.

    Attributes:
      repositories: {"OWNER/NAME": {"path": bytes}}.
      cut: paths whose next download breaks off in the middle.
      spoilt: paths whose downloads have a byte changed.
      ranges: where downloads started that were resumed.
    """

    def __init__(self, repositories):
        self.repositories, self.cut, self.spoilt, self.ranges = repositories, set(), set(), []

    @contextlib.contextmanager
    def serve(self):
        """Gives the address of a running server."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()

    def _handler(hub):  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_HEAD(self):  # noqa: N802
                self.do_GET(body=False)

            def do_GET(self, body=True):  # noqa: N802
                path = self.path.split("?")[0]
                if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/.+)?", path):
                    return self._info(found[1])
                found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
                files = hub.repositories.get(found[1], {}) if found else {}
                if not found or found[2] not in files:
                    return self._say(404, b"", {"X-Error-Code": "RepoNotFound"})
                return self._file(found[2], files[found[2]], body)

            def _info(self, repository):
                if repository not in hub.repositories:
                    return self._say(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                siblings = []
                for name, data in hub.repositories[repository].items():
                    entry = {"rfilename": name, "size": len(data), "blobId": _sha1(data)}
                    if len(data) >= 1024:
                        digest = hashlib.sha256(data).hexdigest()
                        entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
                    siblings.append(entry)
                info = {"id": repository, "modelId": repository, "sha": REVISION}
                return self._say(200, json.dumps({**info, "siblings": siblings}).encode())

            def _file(self, name, data, body):
                headers = {
                    "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                    "X-Repo-Commit": REVISION,
                    "Accept-Ranges": "bytes",
                }
                status = 200
                if name in hub.spoilt:
                    data = bytes([data[0] ^ 1]) + data[1:]
                if start := re.match(r"bytes=(\d+)-", self.headers.get("Range", "")):
                    first, status = int(start[1]), 206
                    headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
                    hub.ranges.append((name, first))
                    data = data[first:]
                if body and name in hub.cut:
                    hub.cut.discard(name)
                    self._say(status, data[: len(data) // 2], headers, length=len(data))
                    return self.connection.close()
                return self._say(status, data if body else b"", headers, length=len(data))

            def _say(self, status, data, headers=None, length=None):
                self.send_response(status)
                for key, value in {"Content-Length": length, **(headers or {})}.items():
                    self.send_header(key, str(len(data) if value is None else value))
                self.end_headers()
                self.wfile.write(data)

        return Handler


def _sha1(data):
    return hashlib.sha1(data).hexdigest()
