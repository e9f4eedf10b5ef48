"""A bucket as a store. This module alone knows boto3, and no exception of boto3's leaves it."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tandem.errors import BadConfiguration, Fault, TandemError, Unavailable
from tandem.store.contract import AlreadyThere, Entry, FileDigest, NotThere, refuse_giant
from tandem.store.files import CHUNK, digest_of, digest_of_chunks, receive, require_equal
from tandem.store.keys import check_folder, check_key, check_prefix, join
from tandem.store.parallel import in_parallel
from tandem.store.parts import Part, cut
from tandem.store.retrying import PATIENT, Retrying
from tandem.store.s3_answers import already_there, error_of_answer, one_line

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, ListObjectsV2OutputTypeDef

Answer = TypeVar("Answer")

_SHA256 = "tandem-sha256"
_WRITER = "tandem-writer"
"""Metadata of every object: its digest, and a token of the one call that wrote it."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How objects travel."""

    part_bytes: int = 8 * 1024 * 1024
    """Files larger than this go up in parts of this size, or larger ones where there would be over 10,000;
    S3 takes no part under 5 MiB but the last."""
    parallel_parts: int = 4
    """Parts of one file in flight; each holds its bytes in memory."""
    page: int = 1000
    """Entries asked for in one listing request: S3's own limit."""


def connect(
    *,
    endpoint: str | None = None,
    region: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    connect_seconds: float = 5.0,
    read_seconds: float = 60.0,
    connections: int = 64,
) -> S3Client:
    """A client for Bucket. What is None comes from the standard AWS variables, files and roles.

    Raises BadConfiguration. boto3's own retries are off, since they cannot tell a lost answer from a lost
    race; every request's SHA-256 is signed, so the server refuses a body that changed on its way.
    """
    import boto3
    from botocore.config import Config

    config = Config(
        signature_version="s3v4",
        retries={"total_max_attempts": 1},
        connect_timeout=connect_seconds,
        read_timeout=read_seconds,
        max_pool_connections=connections,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"payload_signing_enabled": True},
    )
    with _typed_errors(where="S3", server=f"S3 ({endpoint or 'AWS_ENDPOINT_URL_S3'})"):
        client: S3Client = boto3.session.Session(region_name=region).client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=config,
        )
    return client


class Bucket:
    """The Store in an S3 bucket, below a prefix.

    Of many writers one wins by If-None-Match. Each call marks what it writes with a token of its own: where
    the server refuses because the object exists, the token tells our own bytes, whose answer was lost on the
    way, from another writer's.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        prefix: str = "",
        *,
        transfer: Transfer = Transfer(),
        retrying: Retrying = PATIENT,
        new_token: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._transfer = transfer
        self._retrying = retrying
        self._new_token = new_token
        self._server = f"s3://{bucket} at {client.meta.endpoint_url}"
        if self._prefix:
            check_key(self._prefix, where=self.url)

    @property
    def url(self) -> str:
        """The address that opens this store again: s3://bucket/prefix."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def put_if_absent(self, key: str, body: bytes) -> None:
        """See Store."""
        full, digest, token = self._full(key), digest_of(body), self._new_token()
        try:
            self._ask(
                self._where(key),
                lambda: self._client.put_object(
                    Bucket=self._bucket,
                    Key=full,
                    Body=body,
                    IfNoneMatch="*",
                    Metadata={_SHA256: digest.sha256, _WRITER: token},
                ),
            )
        except AlreadyThere:
            if not self._is_ours(key, token):
                self._require_there(key)
                raise

    def put_file_if_absent(self, key: str, path: Path) -> FileDigest:
        """See Store. Raises BadData if the file cannot be read, Corrupt if it changes meanwhile."""
        full = self._full(key)
        parts, digest = cut(path, self._transfer.part_bytes)
        if len(parts) == 1:
            self.put_if_absent(key, parts[0].read())
        elif self._metadata(key) is not None:  # Spares the upload; the conditional request is what decides.
            raise already_there(self._where(key))
        else:
            self._put_parts(key, full, parts, digest)
        return digest

    def get(self, key: str) -> bytes:
        """See Store."""
        full = self._full(key)

        def read() -> tuple[bytes, str | None]:
            answer = self._client.get_object(Bucket=self._bucket, Key=full)
            refuse_giant(answer["ContentLength"], where=self._where(key))
            return answer["Body"].read(), answer["Metadata"].get(_SHA256)

        body, sha256 = self._ask(self._where(key), read)
        found = digest_of(body)
        if sha256 is not None:
            require_equal(found, FileDigest(size=found.size, sha256=sha256), where=self._where(key))
        return body

    def get_file(self, key: str, path: Path, expected: FileDigest) -> None:
        """See Store."""
        self._retrying.call(lambda: receive(path, self._stream(key), expected, where=self._where(key)))

    def digest(self, key: str) -> FileDigest:
        """See Store."""
        return self._retrying.call(lambda: digest_of_chunks(self._stream(key)))

    def list(self, prefix: str) -> Iterator[Entry]:
        """See Store."""
        check_prefix(prefix, where=self.url)
        full = f"{self._prefix}/{prefix}" if self._prefix else prefix
        above = len(full) - len(prefix)
        for page in self._pages({"Prefix": full}):
            for item in page.get("Contents", []):
                yield Entry(key=item["Key"][above:], size=item["Size"])

    def list_folders(self, folder: str) -> Iterator[str]:
        """See Store."""
        check_folder(folder, where=self.url)
        full = f"{self._prefix}/{folder}" if self._prefix else folder
        for page in self._pages({"Prefix": full, "Delimiter": "/"}):
            for item in page.get("CommonPrefixes", []):
                yield item["Prefix"].removeprefix(full).removesuffix("/")

    def _pages(self, wanted: dict[str, str]) -> Iterator[ListObjectsV2OutputTypeDef]:
        asked: Any = {"Bucket": self._bucket, "MaxKeys": self._transfer.page, **wanted}
        while True:
            page = self._ask(self.url, lambda: self._client.list_objects_v2(**asked))
            yield page
            if not page["IsTruncated"]:
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def _put_parts(self, key: str, full: str, parts: Sequence[Part], digest: FileDigest) -> None:
        where, token, client = self._where(key), self._new_token(), self._client
        metadata = {_SHA256: digest.sha256, _WRITER: token}
        created = self._ask(
            where, lambda: client.create_multipart_upload(Bucket=self._bucket, Key=full, Metadata=metadata)
        )
        upload = created["UploadId"]

        def send(part: Part) -> CompletedPartTypeDef:
            body = part.read()
            answer = self._ask(
                where,
                lambda: client.upload_part(
                    Bucket=self._bucket, Key=full, UploadId=upload, PartNumber=part.number, Body=body
                ),
            )
            return {"PartNumber": part.number, "ETag": answer["ETag"]}

        try:
            sent = in_parallel(send, parts, self._transfer.parallel_parts)
            self._ask(
                where,
                lambda: client.complete_multipart_upload(
                    Bucket=self._bucket,
                    Key=full,
                    UploadId=upload,
                    MultipartUpload={"Parts": sent},
                    IfNoneMatch="*",
                ),
            )
        except BaseException as error:
            # A request whose answer was lost may have completed the upload, which is then "not there".
            if isinstance(error, AlreadyThere | NotThere) and self._is_ours(key, token):
                return
            with suppress(TandemError):
                self._ask(
                    where,
                    lambda: client.abort_multipart_upload(Bucket=self._bucket, Key=full, UploadId=upload),
                )
            if isinstance(error, NotThere):
                what = "the server dropped the upload before it was complete"
                raise Unavailable(Fault(where=where, what=what, remedy="Try again")) from error
            if isinstance(error, AlreadyThere):
                self._require_there(key)
            raise

    def _is_ours(self, key: str, token: str) -> bool:
        metadata = self._metadata(key)
        return metadata is not None and metadata.get(_WRITER) == token

    def _require_there(self, key: str) -> None:
        """Raise Unavailable if a key that was refused has no object.

        A server that died while it wrote can keep such a remainder (versitygw's --sidecar): other keys still work.
        """
        if self._metadata(key) is None:
            what = "the server refuses to write it as if it were there, and says that it is not"
            remedy = "Try again; if that key itself is needed, remove on the server what a crash left of it"
            raise Unavailable(Fault(where=self._where(key), what=what, remedy=remedy))

    def _metadata(self, key: str) -> dict[str, str] | None:
        full = self._full(key)
        try:
            head = self._ask(self._where(key), lambda: self._client.head_object(Bucket=self._bucket, Key=full))
        except NotThere:
            return None
        return head["Metadata"]

    def _stream(self, key: str) -> Iterator[bytes]:
        full = self._full(key)
        with _typed_errors(where=self._where(key), server=self._server):
            body = self._client.get_object(Bucket=self._bucket, Key=full)["Body"]
            try:
                yield from body.iter_chunks(CHUNK)
            finally:
                body.close()

    def _ask(self, where: str, request: Callable[[], Answer]) -> Answer:
        def once() -> Answer:
            with _typed_errors(where=where, server=self._server):
                return request()

        return self._retrying.call(once)

    def _full(self, key: str) -> str:
        check_key(key, where=self.url)
        return join(self._prefix, key)

    def _where(self, key: str) -> str:
        return f"{self.url}/{key}"


@contextmanager
def _typed_errors(*, where: str, server: str) -> Iterator[None]:
    from botocore import exceptions
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except exceptions.ClientError as error:
        answer = error.response
        raise error_of_answer(
            status=answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0),
            code=answer.get("Error", {}).get("Code", ""),
            message=answer.get("Error", {}).get("Message", ""),
            where=where,
            server=server,
        ) from error
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        remedy = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a profile, or the pod's role)"
        raise BadConfiguration(Fault(where=server, what="there are no credentials", remedy=remedy)) from error
    except (
        exceptions.ConnectionError,
        exceptions.HTTPClientError,
        exceptions.IncompleteReadError,
        exceptions.CredentialRetrievalError,
        exceptions.MetadataRetrievalError,
        ResponseParserError,
        HTTPError,
    ) as error:
        if _is_untrusted(error):
            what, remedy = "its certificate is not trusted", "Set AWS_CA_BUNDLE to a file with its authority"
            raise BadConfiguration(Fault(where=server, what=what, remedy=remedy)) from error
        what = f"no answer from the server: {one_line(str(error))}"
        raise Unavailable(Fault(where=server, what=what, remedy="Check that it runs and can be reached")) from error
    except (exceptions.BotoCoreError, ValueError, OSError) as error:
        remedy = "Check the store's address and the AWS_* variables"
        raise BadConfiguration(Fault(where=server, what=one_line(str(error)), remedy=remedy)) from error


def _is_untrusted(error: BaseException) -> bool:
    """Whether a certificate was refused, or AWS_CA_BUNDLE names no file: waiting does not help."""
    causes: list[object] = [error]
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError | FileNotFoundError):
            return True
        if isinstance(cause, BaseException):
            causes += [getattr(cause, "kwargs", {}).get("error"), *cause.args]
    return False
