"""Servers that generate texts: whether they can be asked, and whether they answer now."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ValidationError

from tandem.check.report import Collector, Severity
from tandem.evaluate.chat_calls import server_faults
from tandem.evaluate.chat_http import Exchange, HttpAnswer, NoAnswer
from tandem.evaluate.endpoint import describe_endpoint
from tandem.spec import EndpointSpec
from tandem.spec.run import RunSpec

SECONDS = 10.0
"""How long a list of models is waited for."""

_SHOWN = 5
_START = "Start it before this evaluation's turn comes, or mend baseUrl."


def check_endpoints(spec: RunSpec, environment: Mapping[str, str], findings: Collector) -> None:
    """Report endpoints that cannot be asked as they are written, and what they answer to GET models (which is free).

    Only a refused key is a fault: a server may be started later, list no models, or answer from another network.
    """
    answers: dict[tuple[str, str], HttpAnswer | str] = {}
    for evaluation in spec.evals:
        endpoint = evaluation.endpoint
        if endpoint is None:
            continue
        place = f"spec.evals[{evaluation.name}]"
        faults = server_faults(describe_endpoint(endpoint), environment, place=f"{place}.")
        if faults:
            findings.take("endpoint-unusable", faults, cause="configuration")
            continue
        key = environment[endpoint.key_env].strip()
        if (endpoint.base_url, key) not in answers:
            answers[endpoint.base_url, key] = _ask(endpoint, key)
        _judge(endpoint, answers[endpoint.base_url, key], f"{place}.endpoint", findings)


def _ask(endpoint: EndpointSpec, key: str) -> HttpAnswer | str:
    """What the server answers, or why it does not."""
    exchange = Exchange(base_url=endpoint.base_url, key=key, connections=1)
    try:
        return exchange.list_models(seconds=SECONDS)
    except NoAnswer as error:
        return str(error).replace(key, "***")
    except ModuleNotFoundError as error:
        return f"this installation cannot ask: it has no {error.name}"
    finally:
        exchange.close()


def _judge(endpoint: EndpointSpec, answer: HttpAnswer | str, place: str, findings: Collector) -> None:
    if isinstance(answer, str):
        findings.add(
            "endpoint-away",
            where=f"{place}.baseUrl: {endpoint.base_url}",
            what=f"the server does not answer ({answer})",
            remedy=_START,
            cause="unavailable",
            severity=Severity.WARNING,
        )
    elif answer.status in {401, 403}:
        findings.add(
            "endpoint-key-refused",
            where=f"{place}.keyEnv",
            what=f"{endpoint.base_url} answers HTTP {answer.status} to the key in {endpoint.key_env}",
            remedy="Set it to a key of this server.",
        )
    elif answer.status == 200:
        served = _read_names(answer.body)
        if served and endpoint.model not in served:
            rest = f" and {len(served) - _SHOWN} more" if len(served) > _SHOWN else ""
            findings.add(
                "endpoint-model-unlisted",
                where=f"{place}.model: {endpoint.model}",
                what=f"the server lists {', '.join(name[:80] for name in served[:_SHOWN])}{rest}",
                remedy="Name one of those, unless the server serves more than it lists.",
                severity=Severity.WARNING,
            )


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


def _read_names(body: bytes) -> list[str]:
    try:
        return [model.id for model in _Models.model_validate_json(body).data]
    except ValidationError:
        return []
