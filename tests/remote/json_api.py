"""Answers the requests of gcsfs and TensorStore, in Google's JSON API, from a `Store`."""

import json
import re
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler


class Refused(Exception):
    """A request that fails with an HTTP status."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, status, content=b"", **headers):
        if isinstance(content, dict):
            content = json.dumps(content).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def handle_method(self):
        body = self.body()
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        path = re.sub("^/download", "", url.path)
        time.sleep(self.server.latency)
        with self.server.lock:
            self.server.requests.append((self.command, self.path))
            try:
                self.route(path, query, body)
            except Refused as refused:
                code = refused.args[0]
                error = {"error": {"code": code, "message": f"refused: {path}"}}
                self.answer(code, b"" if code == 304 else error)

    do_GET = do_POST = do_PUT = do_DELETE = handle_method

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            size = int(self.headers.get("Content-Length") or 0)
            content = self.rfile.read(size)
            if len(content) < size:
                raise ConnectionAbortedError("a client that was killed while it sent")
            return content
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def route(self, path, query, body):
        store = self.server
        if path.startswith("/batch/"):
            return self.batch(body)
        match = re.fullmatch(r"(/upload)?/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?", path)
        if match is None:
            raise Refused(404)
        bucket = urllib.parse.unquote(match[2])
        if match[1]:
            return self.upload(bucket, query, body)
        if match[3] is None:
            store.bucket(bucket)
            found = store.page(bucket, query) if "/o" in path[-3:] else {"name": bucket}
            return self.answer(200, found)
        return self.one_object(bucket, urllib.parse.unquote(match[3]), query)

    def one_object(self, bucket, name, query):
        store = self.server
        content, generation = store.find(bucket, name, query)
        if content is None:
            raise Refused(404)
        if self.command == "DELETE":
            del store.objects[bucket][name]
            return self.answer(204)
        if query.get("alt") != "media":
            return self.answer(200, store.describe(bucket, name))
        headers = {"x_goog_generation": generation, "ETag": generation}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self.answer(200, content, **headers)
        size = len(content)
        first = int(wanted[1]) if wanted[1] else max(size - int(wanted[2]), 0)
        last = min(int(wanted[2]), size - 1) if wanted[1] and wanted[2] else size - 1
        if first > last:
            raise Refused(416)
        headers["Content_Range"] = f"bytes {first}-{last}/{size}"
        return self.answer(206, content[first : last + 1], **headers)

    def upload(self, bucket, query, body):
        store, kind = self.server, query["uploadType"]
        if "upload_id" in query:
            name, parts = store.uploads[query["upload_id"]]
            parts.append(body)
            if self.headers["Content-Range"].endswith("/*"):
                return self.answer(308, Range=f"bytes=0-{sum(map(len, parts)) - 1}")
            return self.answer(200, store.put(bucket, name, b"".join(parts)))
        if kind == "multipart":
            boundary = re.search('boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
            _, head, rest = body.split(b"--" + boundary, 2)
            name = json.loads(re.split(rb"\r?\n\r?\n", head, maxsplit=1)[1])["name"]
            content = re.split(rb"\r?\n\r?\n", rest, maxsplit=1)[1]
            body = re.sub(rb"\r?\n$", b"", content[: content.rindex(b"--" + boundary + b"--")])
        else:
            name = query.get("name") or json.loads(body)["name"]
        store.find(bucket, name, query)
        if kind == "resumable":
            upload_id = f"upload-{len(store.uploads)}"
            store.uploads[upload_id] = (name, [])
            where = f"{store.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable"
            return self.answer(200, {}, Location=f"{where}&upload_id={upload_id}")
        return self.answer(200, store.put(bucket, name, body))

    def batch(self, body):
        """Delete the objects that the parts of the request name."""
        parts = []
        for number, target in enumerate(re.findall(rb"DELETE (\S+) HTTP", body), 1):
            _, bucket, name = re.split("/b/|/o/", target.decode(), maxsplit=2)
            there = self.server.bucket(bucket).pop(urllib.parse.unquote(name), None)
            status = "404 Not Found" if there is None else "204 No Content"
            parts.append(
                f"--part\r\nContent-Type: application/http\r\nContent-ID: <response-{number}>"
                f"\r\n\r\nHTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n\r\n"
            )
        content = "".join([*parts, "--part--"]).encode()
        self.answer(200, content, Content_Type="multipart/mixed; boundary=part")
