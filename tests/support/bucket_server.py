"""Google Cloud Storage's JSON API, as far as gcsfs and TensorStore call it, from memory."""

import base64
import contextlib
import email
import itertools
import json
import re
import sys
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Bucket:
    """The objects of one bucket by name, with the generation of each."""

    def __init__(self, name: str):
        self.name = name
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.uploads: dict[str, tuple[str, bytearray]] = {}
        self.generations = itertools.count(1)
        self.lock = threading.Lock()

    def write(self, name: str, data: bytes, wanted: str | None) -> dict | None:
        """Writes an object, if its generation is the wanted one ("0": it does not exist)."""
        with self.lock:
            _, generation = self.objects.get(name, (b"", 0))
            if wanted is not None and int(wanted) != generation:
                return None
            self.objects[name] = (data, next(self.generations))
            return self.describe(name)

    def describe(self, name: str) -> dict:
        data, generation = self.objects[name]
        return {
            "kind": "storage#object",
            "bucket": self.name,
            "name": name,
            "id": f"{self.name}/{name}/{generation}",
            "size": str(len(data)),
            "generation": str(generation),
            "metageneration": "1",
            "contentType": "application/octet-stream",
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "crc32c": base64.b64encode(zlib.crc32(data).to_bytes(4)).decode(),
        }

    def list(self, query: dict[str, str]) -> dict:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        start, end = query.get("startOffset", ""), query.get("endOffset", "")
        items, prefixes = [], set()
        for name in sorted(self.objects):
            if not name.startswith(prefix) or name < start or (end and name >= end):
                continue
            head, found, _ = name[len(prefix) :].partition(delimiter or "\0")
            if delimiter and found:
                prefixes.add(prefix + head + delimiter)
            else:
                items.append(self.describe(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}


@contextlib.contextmanager
def bucket_server(name: str) -> Iterator[tuple[Bucket, dict[str, str]]]:
    """Serves an empty bucket; gives it, and the environment that leads the libraries to it."""
    bucket = Bucket(name)
    server = _Server(("127.0.0.1", 0), type("Bound", (_Handler,), {"bucket": bucket}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield (
            bucket,
            {
                "STORAGE_EMULATOR_HOST": address,
                "TENSORSTORE_GCS_HTTP_URL": address,
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
                "GOOGLE_CLOUD_PROJECT": "project",
                "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            },
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # a client had enough
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    bucket: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path, query = self._split()
        if f"/b/{self.bucket.name}" not in path:
            return self._missing()
        if not (name := self._object(path)):
            at_bucket = path.rstrip("/").endswith("/o")
            self._json(self.bucket.list(query) if at_bucket else {"name": self.bucket.name})
        elif name not in self.bucket.objects:
            self._missing()
        elif query.get("alt") == "media" or path.startswith("/download"):
            self._media(name, query)
        else:
            self._json(self.bucket.describe(name))

    def do_POST(self):
        path, query = self._split()
        if "upload_id" in query:
            return self.do_PUT()
        if f"/b/{self.bucket.name}/" not in path:
            return self._missing()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if copied := re.search(r"/o/(.+)/(?:rewriteTo|copyTo)/b/[^/]+/o/(.+)", path):
            source, target = map(unquote, copied.groups())
            if source not in self.bucket.objects:
                return self._missing()
            data, _ = self.bucket.objects[source]
            return self._written({"done": True, "resource": self.bucket.write(target, data, None)})
        wanted = query.get("ifGenerationMatch")
        if query["uploadType"] == "media":
            return self._written(self.bucket.write(query["name"], body, wanted))
        if query["uploadType"] == "multipart":
            head = f"Content-Type: {self.headers['Content-Type']}\n\n".encode()
            described, data = email.message_from_bytes(head + body).get_payload()
            name = json.loads(described.get_payload())["name"]
            return self._written(self.bucket.write(name, data.get_payload(decode=True), wanted))
        key = str(next(self.bucket.generations))
        name = query.get("name") or json.loads(body)["name"]
        self.bucket.uploads[key] = (name, bytearray())
        self._json({}, 200, Location=f"http://{self.headers['Host']}/resumable?upload_id={key}")

    def do_PUT(self):
        _, query = self._split()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name, data = self.bucket.uploads[query["upload_id"]]
        data += body
        if self.headers.get("Content-Range", "/*").endswith("/*"):
            return self._json({}, 308, Range=f"bytes=0-{len(data) - 1}")
        self._written(self.bucket.write(name, bytes(data), None))

    def do_DELETE(self):
        path, _ = self._split()
        found = self.bucket.objects.pop(self._object(path), None)
        self._json({}, 204 if found else 404)

    def _split(self) -> tuple[str, dict[str, str]]:
        url = urlsplit(self.path)
        query = parse_qs(url.query, keep_blank_values=True)
        return url.path, {key: values[0] for key, values in query.items()}

    def _object(self, path: str) -> str:
        return unquote(path.partition("/o/")[2])

    def _written(self, described: dict | None) -> None:
        self._json(described or {"error": {"code": 412}}, 200 if described else 412)

    def _missing(self) -> None:
        self._json({"error": {"code": 404, "message": "Not Found"}}, 404)

    def _media(self, name: str, query: dict[str, str]) -> None:
        data, generation = self.bucket.objects[name]
        if query.get("ifGenerationNotMatch") == str(generation):
            return self._json({}, 304)
        status, headers = 200, {"x-goog-generation": str(generation)}
        if asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            start = int(asked[1]) if asked[1] else len(data) - int(asked[2])
            end = min(int(asked[2] or len(data)) if asked[1] else len(data), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            status, data = 206, data[start : end + 1]
        self._send(data, status, "application/octet-stream", headers)

    def _json(self, value: dict, status: int = 200, **headers: str) -> None:
        data = b"" if status in (204, 304) else json.dumps(value).encode()
        self._send(data, status, "application/json", headers)

    def _send(self, data: bytes, status: int, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Type": kind}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
