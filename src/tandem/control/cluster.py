"""A Kubernetes API server over HTTP. This module alone knows the kubernetes client; no error of it leaves here."""

from __future__ import annotations

import json
import logging
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
import yaml
from kubernetes import client, config

from tandem.control.api import (
    Busy,
    Change,
    Kind,
    NotFound,
    Object,
    Page,
    Propagation,
)
from tandem.control.cluster_answers import (
    AWAY,
    LOGIN,
    error_of,
    mapping,
    name_place,
    no_object,
    parse_object,
    parse_status,
    read_lines,
    shorten,
)
from tandem.errors import BadConfiguration, Fault, TandemError

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
WATCH_SLACK_SECONDS = 15.0
"""How much longer than the server should a watch is waited for: a lost network says nothing."""


class Cluster:
    """The Api of a real server."""

    def __init__(self, api_client: Any, *, namespace: str) -> None:
        self._client = api_client
        self.namespace = namespace
        """Where the kubeconfig's context, or the pod, is."""

    @property
    def server(self) -> str:
        """Its address."""
        return str(self._client.configuration.host)

    def serves(self, kind: Kind) -> bool:
        """See Api."""
        try:
            found = self._ask("GET", kind.root, where=kind.plural).get("resources")
        except NotFound:
            return False
        return isinstance(found, list) and any(mapping(one).get("name") == kind.plural for one in found)

    def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        """See Api."""
        return self._ask("GET", kind.path(namespace, name), where=name_place(kind, namespace, name))

    def list(
        self, kind: Kind, namespace: str | None, *, selector: str = "", limit: int = 500, rest: str | None = None
    ) -> Page:
        """See Api."""
        query = {"labelSelector": selector, "limit": str(limit), "continue": rest or ""}
        found = self._ask("GET", kind.path(namespace), query=query, where=name_place(kind, namespace))
        metadata, listed = mapping(found.get("metadata")), found.get("items")
        given = [mapping(item) for item in listed] if isinstance(listed, list) else []
        items = tuple({"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in given)
        return Page(items=items, version=metadata.get("resourceVersion", ""), rest=metadata.get("continue") or None)

    def watch(
        self, kind: Kind, namespace: str | None, *, version: str, selector: str = "", seconds: float = 300.0
    ) -> Iterator[Change]:
        """See Api."""
        where = name_place(kind, namespace)
        query = {
            "watch": "true",
            "labelSelector": selector,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, int(seconds))),
        }
        timeout = (CONNECT_SECONDS, seconds + WATCH_SLACK_SECONDS)
        with self._open("GET", kind.path(namespace), query=query, where=where, timeout=timeout) as answer:
            for line in read_lines(answer):
                event = parse_object(line, where)
                changed = mapping(event.get("object"))
                if event.get("type") == "ERROR":
                    code = changed.get("code")
                    raise error_of(code if isinstance(code, int) else 500, changed, {}, where)
                if event.get("type") not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK") or "metadata" not in changed:
                    raise no_object(line, where)
                yield Change(type=event["type"], object=changed)

    def create(
        self, kind: Kind, namespace: str | None, body: Object, *, strict: bool = False, dry_run: bool = False
    ) -> Object:
        """See Api."""
        query = {"fieldValidation": "Strict" if strict else "", "dryRun": "All" if dry_run else ""}
        whole = {"apiVersion": kind.api_version, "kind": kind.kind, **body}
        where = name_place(kind, namespace, (body.get("metadata") or {}).get("name"))
        return self._ask("POST", kind.path(namespace), query=query, body=whole, where=where, creates=True)

    def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        propagation: Propagation = "Background",
    ) -> None:
        """See Api."""
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            self._ask("DELETE", kind.path(namespace, name), body=body, where=name_place(kind, namespace, name))
        except NotFound:
            return

    def merge(self, kind: Kind, namespace: str | None, name: str, patch: Object) -> Object:
        """See Api."""
        return self._ask(
            "PATCH",
            kind.path(namespace, name),
            body=patch,
            content="application/merge-patch+json",
            where=name_place(kind, namespace, name),
        )

    def apply_status(self, kind: Kind, namespace: str | None, name: str, status: Object, *, manager: str) -> Object:
        """See Api."""
        body = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {"name": name, "namespace": namespace},
            "status": status,
        }
        return self._ask(
            "PATCH",
            kind.path(namespace, name, "status"),
            query={"fieldManager": manager, "force": "true"},
            body=body,
            content="application/apply-patch+yaml",
            where=name_place(kind, namespace, name),
        )

    def read_log(self, namespace: str, pod: str, container: str, *, tail_lines: int | None = None) -> bytes:
        """See Api."""
        return b"".join(self._log(namespace, pod, container, tail_lines=tail_lines, follow=False))

    def follow_log(self, namespace: str, pod: str, container: str) -> Iterator[bytes]:
        """See Api."""
        try:
            yield from self._log(namespace, pod, container, tail_lines=None, follow=True)
        except Busy:
            return

    def _log(
        self, namespace: str, pod: str, container: str, *, tail_lines: int | None, follow: bool
    ) -> Iterator[bytes]:
        query = {
            "container": container,
            "follow": "true" if follow else "",
            "tailLines": "" if tail_lines is None else str(tail_lines),
        }
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        timeout = (CONNECT_SECONDS, None) if follow else (CONNECT_SECONDS, READ_SECONDS)
        with self._open("GET", path, query=query, where=f"log of pod {namespace}/{pod}", timeout=timeout) as answer:
            while piece := answer.read1(65536):
                yield piece

    def _ask(
        self,
        method: str,
        path: str,
        *,
        where: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content: str = "application/json",
        creates: bool = False,
    ) -> Object:
        timeout = (CONNECT_SECONDS, READ_SECONDS)
        with self._open(
            method, path, query=query, body=body, content=content, where=where, timeout=timeout, creates=creates
        ) as answer:
            return parse_object(answer.read(), where)

    @contextmanager
    def _open(
        self,
        method: str,
        path: str,
        *,
        where: str,
        timeout: tuple[float, float | None],
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content: str = "application/json",
        creates: bool = False,
    ) -> Iterator[Any]:
        """Send a request; the answer's body can be read within the block."""
        headers = {"Accept": "application/json", "Content-Type": content, "User-Agent": "tandem"}
        given = urlencode({name: value for name, value in (query or {}).items() if value})
        with _typed_errors(where):
            # Asks for a fresh token each time: those of pods and of login helpers run out.
            self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            answer = self._client.rest_client.pool_manager.request(
                method,
                f"{self.server}{path}" + (f"?{given}" if given else ""),
                body=None if body is None else json.dumps(body),
                headers=headers,
                timeout=urllib3.Timeout(connect=timeout[0], read=timeout[1]),
                preload_content=False,
                retries=False,
                redirect=False,
            )
            with closing(answer):
                if not 200 <= answer.status < 300:
                    raise error_of(answer.status, parse_status(answer.read()), answer.headers, where, creates=creates)
                yield answer
                answer.drain_conn()


def connect(*, kubeconfig: str | None = None, context: str | None = None, namespace: str | None = None) -> Cluster:
    """The cluster of a kubeconfig, chosen as kubectl does; in a pod, the pod's own. Asks the server nothing.

    Raises BadConfiguration if there is none or it cannot be used.
    """
    settings = client.Configuration()
    settings.retries = False
    with _typed_settings(kubeconfig):
        if kubeconfig is None and context is None and _in_pod():
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            own = (_POD_FOLDER / "namespace").read_text(encoding="utf-8").strip()
        else:
            # The loader logs what it then raises.
            logging.getLogger("kubernetes").setLevel(logging.CRITICAL)
            config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=kubeconfig, context=context, client_configuration=settings
            )
            contexts, current = config.list_kube_config_contexts(config_file=kubeconfig)  # type: ignore[no-untyped-call]
            chosen = next((one for one in contexts if one["name"] == context), current)
            own = (chosen["context"] or {}).get("namespace") or "default"
        return Cluster(client.ApiClient(settings), namespace=namespace or own)


_POD_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def _in_pod() -> bool:
    """Whether there is a pod's account and no kubeconfig, which would come first."""
    usual = config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION.split(os.pathsep)
    return (_POD_FOLDER / "token").exists() and not any(Path(one).expanduser().exists() for one in usual if one)


@contextmanager
def _typed_settings(kubeconfig: str | None) -> Iterator[None]:
    where = kubeconfig or "kubeconfig"
    remedy = "Give one with --kubeconfig or KUBECONFIG, and its context with --context."
    try:
        yield
    except config.ConfigException as error:
        raise BadConfiguration(Fault(where=where, what=f"cannot be used: {shorten(error)}", remedy=remedy)) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        what = f"cannot be read ({type(error).__name__}: {shorten(error)})"
        raise BadConfiguration(Fault(where=where, what=what, remedy=remedy)) from None


@contextmanager
def _typed_errors(where: str) -> Iterator[None]:
    try:
        yield
    except TandemError:
        raise
    except (urllib3.exceptions.SSLError, ssl.SSLError) as error:
        what = f"the server's certificate is not trusted ({shorten(error)})"
        raise BadConfiguration(Fault(where=where, what=what, remedy=LOGIN)) from None
    except urllib3.exceptions.LocationValueError as error:
        raise BadConfiguration(
            Fault(where=where, what=f"the server has no usable address ({shorten(error)})", remedy=LOGIN)
        ) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        what = f"the cluster cannot be reached ({type(error).__name__}: {shorten(error)})"
        raise Busy(Fault(where=where, what=what, remedy=AWAY)) from None
    except (client.ApiException, config.ConfigException) as error:
        raise BadConfiguration(Fault(where=where, what=f"cannot log in ({shorten(error)})", remedy=LOGIN)) from None
