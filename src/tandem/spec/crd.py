"""The custom resource `Run` for Kubernetes: its definition, made from the models of spec and status.

Kubernetes wants a structural schema: no $ref, no anyOf with null, no additionalProperties false. It adds no default
here, and null stays null, so that a spec comes back from the API server as it was submitted, with the same id.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import yaml

from tandem.spec.base import Section
from tandem.spec.run import API_VERSION, KIND, Metadata, Run, RunSpec
from tandem.spec.status import RunStatus

GROUP, VERSION = API_VERSION.split("/")
PLURAL = "runs"
CHANGEABLE = "desired"
"""The one field of a spec that may change, and no part of a Run's identity."""

_KEPT = (
    *("type", "description", "enum", "pattern", "format", "minLength", "maxLength", "minItems", "maxItems"),
    *("minimum", "maximum", "required", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
)
_DROPPED = ("title", "default", "$defs")

_COLUMNS: tuple[tuple[str, str, str, int], ...] = (
    ("Phase", "string", ".status.phase", 0),
    ("Stage", "string", ".status.attempt.stage", 0),
    ("Attempt", "integer", ".status.attempt.number", 0),
    ("Progress", "string", ".status.progress.text", 0),
    ("Figures", "string", ".status.figures", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Run id", "string", ".status.runId", 1),
    ("Job", "string", ".status.attempt.job", 1),
    ("Message", "string", ".status.message", 1),
    ("Result", "string", ".status.result", 1),
)
"""Name, type, path and priority (1: with -o wide only)."""

# has() takes a null for absent.
_RULES = (
    {
        "rule": "has(self.train) || (has(self.evals) && size(self.evals) > 0)",
        "message": "there is nothing to do: give train, evals or both",
        "reason": "FieldValueRequired",
    },
    {
        "rule": "!has(self.train) || !has(self.model.adapter)",
        "message": "model.adapter is for Runs without training: leave out model.adapter or train",
        "reason": "FieldValueForbidden",
    },
    {
        "rule": "!has(self.train) || has(self.train.epochs) != has(self.train.steps)",
        "message": "give either train.epochs or train.steps",
        "reason": "FieldValueInvalid",
    },
    {
        "rule": (
            "!has(self.evals) || has(self.train) || self.evals.all(e, has(e.of) && e.of == 'base'"
            " || has(self.model.adapter) && (!has(e.of) || e.of == 'adapter'))"
        ),
        "message": "nothing is trained: give train, or evaluate the base, or the adapter that model.adapter names",
        "reason": "FieldValueInvalid",
    },
    {
        "rule": (
            "!has(self.evals) || !has(self.train) || has(self.train.validation)"
            " || !self.evals.exists(e, has(e.of) && e.of == 'checkpoint-best')"
        ),
        "message": "checkpoint-best is the one with the lowest validation loss: give train.validation",
        "reason": "FieldValueInvalid",
    },
    {
        "rule": "!has(self.evals) || self.evals.all(e, self.evals.exists_one(other, other.name == e.name))",
        "message": "each evaluation needs a name of its own",
        "reason": "FieldValueInvalid",
    },
    {
        "rule": " == ".join(f"size(dyn({it})) - (has({it}.{CHANGEABLE}) ? 1 : 0)" for it in ("self", "oldSelf")),
        "message": f"cannot change: a field appeared or vanished, if only with null; all but {CHANGEABLE} stays",
        "reason": "FieldValueForbidden",
    },
    {
        "rule": (
            f"!has(oldSelf.{CHANGEABLE}) || oldSelf.{CHANGEABLE} != 'Cancelled'"
            f" || (has(self.{CHANGEABLE}) && self.{CHANGEABLE} == 'Cancelled')"
        ),
        "message": "a cancelled Run stays cancelled: delete it, or submit it with --again",
        "fieldPath": f".{CHANGEABLE}",
        "reason": "FieldValueForbidden",
    },
)


def custom_resource_definition() -> dict[str, Any]:
    """The CustomResourceDefinition of runs.tandem.dev, without labels and annotations."""
    schema = {
        "type": "object",
        "description": _one_line(Run.__doc__),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": _name_schema()}},
            "spec": _spec_schema(),
            "status": structural_schema(RunStatus),
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "categories": ["tandem"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                    "selectableFields": [{"jsonPath": ".status.phase"}],
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path, "priority": priority}
                        for name, kind, path, priority in _COLUMNS
                    ],
                }
            ],
        },
    }


def structural_schema(section: type[Section]) -> dict[str, Any]:
    """The section as a structural OpenAPI v3 schema: references written out, null as nullable, no defaults.

    Raises AssertionError for what the models do not use today and this does not know how to say.
    """
    schema = section.model_json_schema(by_alias=True)
    return _convert(schema, schema.get("$defs", {}))


def _spec_schema() -> dict[str, Any]:
    schema = structural_schema(RunSpec)
    fixed = [key for key in schema["properties"] if key != CHANGEABLE]
    return {**schema, "x-kubernetes-validations": [*_RULES, *(_never_changes(key) for key in fixed)]}


def _never_changes(key: str) -> dict[str, str]:
    # A rule on the field itself would not be asked when the field appears or vanishes.
    return {
        "rule": f"has(self.{key}) == has(oldSelf.{key}) && (!has(self.{key}) || self.{key} == oldSelf.{key})",
        "message": f"cannot change: a Run is what it was submitted as, but for {CHANGEABLE}; submit another Run",
        "fieldPath": f".{key}",
        "reason": "FieldValueForbidden",
    }


def _name_schema() -> dict[str, Any]:
    name: dict[str, Any] = structural_schema(Metadata)["properties"]["name"]
    return name


def _convert(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """One node of pydantic's JSON schema (draft 2020-12) as Kubernetes takes it."""
    rest = dict(node)
    if "$ref" in rest:
        return _convert({**definitions[rest.pop("$ref").rpartition("/")[2]], **rest}, definitions)
    if "anyOf" in rest:
        (value,) = (part for part in rest.pop("anyOf") if part != {"type": "null"})
        converted = _convert({**value, **rest}, definitions)
        assert "enum" not in converted, "an enum that may be null"
        return {**converted, "nullable": True}
    converted = {key: rest.pop(key) for key in _KEPT if key in rest}
    for key in _DROPPED:
        rest.pop(key, None)
    if "description" in converted:
        converted["description"] = _one_line(converted["description"])
    if "const" in rest:
        converted["enum"] = [rest.pop("const")]
    for side in ("Minimum", "Maximum"):
        if f"exclusive{side}" in rest:
            converted |= {side.lower(): rest.pop(f"exclusive{side}"), f"exclusive{side}": True}
    if "prefixItems" in rest:
        first, *more = rest.pop("prefixItems")
        assert all(part == first for part in more), "a tuple of different types"
        rest["items"] = first
    if "items" in rest:
        converted["items"] = _convert(rest.pop("items"), definitions)
    others = rest.pop("additionalProperties", False)  # False: unknown keys; Kubernetes prunes or refuses them by itself
    if others:
        converted["additionalProperties"] = _convert(others, definitions)
    if "properties" in rest:
        properties = rest.pop("properties")
        converted["properties"] = {key: _convert(value, definitions) for key, value in properties.items()}
    assert not rest, f"not known how to say this to Kubernetes: {sorted(rest)}"
    return converted


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


_HEAD = """\
{{- /* Made from src/tandem/spec by `python -m tandem.spec.crd > charts/tandem-crds/templates/runs.yaml`. */ -}}
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: NAME
  labels:
    app.kubernetes.io/name: {{ .Chart.Name }}
    app.kubernetes.io/instance: {{ .Release.Name }}
    app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
    app.kubernetes.io/part-of: tandem
    app.kubernetes.io/component: custom-resource
    app.kubernetes.io/managed-by: {{ .Release.Service }}
    helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
    {{- with .Values.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or .Values.keep .Values.annotations }}
  annotations:
    {{- if .Values.keep }}
    helm.sh/resource-policy: keep
    {{- end }}
    {{- with .Values.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
"""


def chart_template() -> str:
    """The template of charts/tandem-crds: the definition, with labels and annotations left to the chart's values."""
    definition = custom_resource_definition()
    spec = yaml.dump({"spec": definition["spec"]}, Dumper=_Plain, sort_keys=False, width=116, allow_unicode=True)
    return _HEAD.replace("NAME", definition["metadata"]["name"]) + spec.replace("{{", '{{ "{{" }}')


class _Plain(yaml.SafeDumper):
    """Writes equal parts out instead of pointing back at the first."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


if __name__ == "__main__":
    sys.stdout.write(chart_template())
