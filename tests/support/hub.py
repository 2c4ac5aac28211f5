"""The Hugging Face hub, as far as its client asks a local server for files."""

import http.server


class HubHandler(http.server.BaseHTTPRequestHandler):
    """Hands HEAD and GET to `answer(body)`, which a test's own hub defines."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def refuse(self, error):
        """Answer that something is not there, by the hub's name of the error."""
        self.send_response(404)
        self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def begin(self, size, commit, tag):
        """Answer with the head of a file: its size in bytes, its commit and its tag."""
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{tag}"')
        self.send_header("Content-Length", str(size))
        self.end_headers()
