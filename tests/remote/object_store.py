"""An object store on this machine, for clients of Google Cloud Storage.

Objects are kept in a dict. `create` makes a bucket; buckets named in `forbidden` answer 403. Every
answer waits for `latency` seconds, which requests at the same time do together.
"""

import sys
import threading
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

from tests.remote.json_api import Handler, Refused


class Store(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.RLock()
        self.objects = {}
        self.uploads = {}
        self.forbidden = set()
        self.requests = []
        self.latency = 0
        self._generation = 0

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # The client has gone.
            super().handle_error(request, client_address)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self):
        """Return the variables that direct a program's requests here and nowhere else."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "GOOGLE_CLOUD_PROJECT": "tests",
            "FSSPEC_GS_TOKEN": "anon",
            "NO_GCE_CHECK": "true",
            # gcsfs would ask for the kind of bucket over gRPC.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def create(self, bucket):
        self.objects.setdefault(bucket, {})

    def names(self, bucket, prefix=""):
        with self.lock:
            return sorted(name for name in self.objects[bucket] if name.startswith(prefix))

    def read(self, bucket, name):
        return self.objects[bucket][name][0]

    def put(self, bucket, name, content):
        with self.lock:
            self._generation += 1
            self.bucket(bucket)[name] = (bytes(content), self._generation)
            return self.describe(bucket, name)

    def bucket(self, bucket):
        if bucket in self.forbidden:
            raise Refused(403)
        if bucket not in self.objects:
            raise Refused(404)
        return self.objects[bucket]

    def find(self, bucket, name, query):
        content, generation = self.bucket(bucket).get(name, (None, 0))
        wanted = query.get("ifGenerationMatch", query.get("generation"))
        if wanted is not None and int(wanted) != generation:
            raise Refused(412)
        if "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == generation:
            raise Refused(304)
        return content, generation

    def describe(self, bucket, name):
        content, generation = self.bucket(bucket)[name]
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "etag": str(generation),
            "contentType": "application/octet-stream",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
        }

    def page(self, bucket, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        start = max(query.get("startOffset", ""), query.get("pageToken", ""))
        end = query.get("endOffset")
        items, prefixes = [], []
        self.bucket(bucket)
        names = [n for n in self.names(bucket, prefix) if n >= start and (not end or n < end)]
        limit = int(query.get("maxResults", 1000))
        for name in names:
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folder = prefix + rest.split(delimiter)[0] + delimiter
                if folder not in prefixes:
                    prefixes.append(folder)
            else:
                items.append(self.describe(bucket, name))
            if len(items) + len(prefixes) == limit and name != names[-1]:
                following = names[names.index(name) + 1]
                return {"items": items, "prefixes": prefixes, "nextPageToken": following}
        return {"items": items, "prefixes": prefixes}


@contextmanager
def serving():
    """Run a store in a thread of this process."""
    store = Store()
    thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield store
    finally:
        store.shutdown()
        thread.join()
        store.server_close()
