"""A small S3-compatible store, in memory: what restic's client asks of one, with every request's signature checked.

Responsible for: buckets and objects by PUT, GET with ranges, HEAD, DELETE and listing, and AWS Signature Version 4 of
the headers (docs.aws.amazon.com, "Authenticating Requests"). Not responsible for: parts, versions, rights, nor for the
signatures of the chunks of a streamed body.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

REGION = "us-east-1"
_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
_SIGNED = re.compile(r"AWS4-HMAC-SHA256 Credential=([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})")
_CHUNK = re.compile(rb"([0-9a-f]+);chunk-signature=[0-9a-f]{64}\r\n")


class ObjectStore(ThreadingHTTPServer):
    """Buckets of objects, by name. `refused` counts requests that weren't signed with `key` and `secret`."""

    daemon_threads = True

    def __init__(self, address: str, key: str, secret: str) -> None:
        super().__init__((address, 0), _Request)
        self.key, self.secret = key, secret
        self.buckets: dict[str, dict[str, tuple[bytes, str]]] = {}
        self.refused = 0

    @property
    def url(self) -> str:
        """Without a bucket."""
        return f"http://{self.server_address[0]}:{self.server_address[1]}"


@contextmanager
def serving(address: str, key: str, secret: str) -> Iterator[ObjectStore]:
    """A store that listens on a free port of `address` as long as the block lasts."""
    with ObjectStore(address, key, secret) as store:
        thread = threading.Thread(target=store.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield store
        finally:
            store.shutdown()
            thread.join()


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ObjectStore

    def do_PUT(self) -> None:
        body = self._body()
        bucket, key = self._asked()
        if key:
            self.server.buckets[bucket][key] = (body, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"))
            self._answer(200, ETag=_etag(body))
        elif bucket:
            self.server.buckets.setdefault(bucket, {})
            self._answer(200)

    def do_GET(self) -> None:
        bucket, key = self._asked()
        if not bucket:
            return
        if key:
            self._object(bucket, key)
        elif "location" in self._query:
            self._answer(200, f"{_XML}<LocationConstraint>{REGION}</LocationConstraint>".encode())
        else:
            self._answer(200, self._listing(bucket).encode())

    def do_HEAD(self) -> None:
        bucket, key = self._asked()
        if bucket:
            self._object(bucket, key) if key else self._answer(200)

    def do_DELETE(self) -> None:
        bucket, key = self._asked()
        if bucket:
            self.server.buckets[bucket].pop(key, None)
            self._answer(204)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: pytest shows what wsctl says."""

    @property
    def _query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    def _asked(self) -> tuple[str, str]:
        """Bucket and key; nothing if the answer has been given: who isn't known, and what isn't there."""
        bucket, _, key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        if not self._is_signed():
            self.server.refused += 1
            self._fail(403, "SignatureDoesNotMatch")
        elif bucket not in self.server.buckets and self.command != "PUT":
            self._fail(404, "NoSuchBucket")
        else:
            return bucket, key
        return "", ""

    def _is_signed(self) -> bool:
        found = _SIGNED.fullmatch(self.headers.get("Authorization", ""))
        if not found:
            return False
        credential, names, signature = found.groups()
        who, _, scope = credential.partition("/")
        path, _, query = self.path.partition("?")
        sorted_query = "&".join(sorted(part if "=" in part else f"{part}=" for part in query.split("&") if part))
        headers = "".join(f"{name}:{self.headers.get(name, '').strip()}\n" for name in names.split(";"))
        payload = self.headers.get("x-amz-content-sha256", "")
        canonical = "\n".join((self.command, path, sorted_query, headers, names, payload))
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = "\n".join(("AWS4-HMAC-SHA256", self.headers.get("x-amz-date", ""), scope, digest))
        key = f"AWS4{self.server.secret}".encode()
        for part in (*scope.split("/"), text):
            key = hmac.digest(key, part.encode(), "sha256")
        return who == self.server.key and hmac.compare_digest(key.hex(), signature)

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if not self.headers.get("x-amz-content-sha256", "").startswith("STREAMING"):
            return data
        whole, at = b"", 0
        while found := _CHUNK.match(data, at):
            size = int(found[1], 16)
            whole += data[found.end() : found.end() + size]
            at = found.end() + size + 2
        return whole

    def _object(self, bucket: str, key: str) -> None:
        data, at = self.server.buckets[bucket].get(key, (None, ""))
        if data is None:
            self._fail(404, "NoSuchKey")
            return
        about = {
            "ETag": _etag(data),
            "Last-Modified": datetime.fromisoformat(at).strftime("%a, %d %b %Y %H:%M:%S GMT"),
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            self._answer(200, data, **about)
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        about["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._answer(206, data[first : last + 1], **about)

    def _listing(self, bucket: str) -> str:
        prefix, delimiter = (self._query.get(name, [""])[0] for name in ("prefix", "delimiter"))
        contents, folders = "", dict[str, None]()
        for key, (data, at) in sorted(self.server.buckets[bucket].items()):
            if not key.startswith(prefix):
                continue
            folder, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if found:
                folders[f"{prefix}{folder}{delimiter}"] = None
            else:
                contents += (
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{at}</LastModified><Size>{len(data)}</Size>"
                    "<ETag>&quot;x&quot;</ETag><StorageClass>STANDARD</StorageClass></Contents>"
                )
        common = "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in folders)
        return (
            f'{_XML}<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{bucket}</Name>'
            f"<Prefix>{escape(prefix)}</Prefix><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>"
            f"{contents}{common}</ListBucketResult>"
        )

    def _fail(self, status: int, code: str) -> None:
        self._answer(status, f"{_XML}<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
