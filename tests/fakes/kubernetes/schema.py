"""The fields of a TrainJob, by generation of the Trainer: pruning, defaults and validation as by a CRD.

The schemas are those of the CustomResourceDefinitions where they lie beside the repository, in ../shared/crds, and
otherwise the compact ones of cluster.compact_schema.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError

from fakes.kubernetes.compact_schema import compact_schema
from helpers.places import SHARED_DATA

CRD_FOLDER = SHARED_DATA / "crds"

GENERATIONS = ("2.1", "2.2", "2.3", "unknown")

Schema = dict[str, Any]
Cause = dict[str, str]

#: Fields of ObjectMeta that a client may send.
_METADATA = {
    "name",
    "generateName",
    "namespace",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "managedFields",
    "deletionTimestamp",
    "selfLink",
    "deletionGracePeriodSeconds",
}

_KINDS = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}


def trainjob_schema(generation: str) -> Schema:
    """openAPIV3Schema of the TrainJob; generation: one of GENERATIONS.

    "unknown" is one that has neither podTemplateOverrides nor runtimePatches.
    """
    if generation == "unknown":
        schema = copy.deepcopy(trainjob_schema("2.3"))
        del schema["properties"]["spec"]["properties"]["runtimePatches"]
        return schema
    return crd_schema(generation) or compact_schema(generation)


@lru_cache
def crd_schema(generation: str) -> Schema | None:
    """The schema from the CRD's file, or None if there is no such file."""
    for file in CRD_FOLDER.glob(f"trainjobs-{generation}.*.yaml"):
        definition = yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return None


def prune(body: dict[str, Any], schema: Schema) -> list[str]:
    """Removes fields from the body that the schema does not know; returns their paths."""
    unknown = [f"metadata.{name}" for name in body.get("metadata", {}) if name not in _METADATA]
    for path in unknown:
        del body["metadata"][path.removeprefix("metadata.")]
    known = {name: part for name, part in schema["properties"].items() if name != "metadata"}
    rest = {name: value for name, value in body.items() if name != "metadata"}
    unknown += _prune(rest, {**schema, "properties": known}, "")
    for name in set(body) - set(rest) - {"metadata"}:
        del body[name]
    return unknown


def _prune(value: Any, schema: Schema, path: str) -> list[str]:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    unknown: list[str] = []
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            unknown += _prune(item, schema["items"], f"{path}[{index}]")
    elif isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        for name in sorted(value):
            inner = f"{path}.{name}" if path else name
            if name in properties:
                unknown += _prune(value[name], properties[name], inner)
            elif isinstance(others, dict):
                unknown += _prune(value[name], others, inner)
            elif not others:
                unknown.append(inner)
                del value[name]
    return unknown


def fill_in(value: Any, schema: Schema) -> None:
    """Drops nulls from objects and fills in the schema's defaults."""
    if isinstance(value, list) and "items" in schema:
        for item in value:
            fill_in(item, schema["items"])
    elif isinstance(value, dict):
        for name in [name for name, held in value.items() if held is None]:
            del value[name]
        for name, part in schema.get("properties", {}).items():
            if name not in value and "default" in part:
                value[name] = copy.deepcopy(part["default"])
        for name, held in value.items():
            part = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if isinstance(part, dict):
                fill_in(held, part)


def violations(body: dict[str, Any], schema: Schema) -> list[Cause]:
    """Violations of the schema, as causes of a Status, ordered by field."""
    causes = [_cause(error) for error in Draft202012Validator(schema).iter_errors(body)]
    if not causes:
        causes = [*_duplicates(body, schema, ""), *_broken_rules(body, schema, "")]
    return sorted(causes, key=lambda cause: cause["field"])


def _cause(error: ValidationError) -> Cause:
    field = _field(error.absolute_path)
    instance: Any = error.instance
    value = (
        json.dumps(error.instance)
        if isinstance(error.instance, str | bool | int | float)
        else (f'"{_KINDS[type(error.instance)]}"')
    )
    limit: Any = error.validator_value
    match error.validator:
        case "required":
            missing = next(name for name in limit if name not in instance)
            field = f"{field}.{missing}" if field else missing
            return {"reason": "FieldValueRequired", "message": "Required value", "field": field}
        case "enum":
            listed = ", ".join(json.dumps(one) for one in limit)
            return {
                "reason": "FieldValueNotSupported",
                "field": field,
                "message": f"Unsupported value: {value}: supported values: {listed}",
            }
        case "maxLength":
            return {
                "reason": "FieldValueTooLong",
                "field": field,
                "message": f"Too long: may not be more than {limit} bytes",
            }
        case "maxItems":
            return {
                "reason": "FieldValueTooMany",
                "field": field,
                "message": f"Too many: {len(instance)}: must have at most {limit} items",
            }
        case "type" | "anyOf":
            kinds = limit if isinstance(limit, str) else ",".join(one["type"] for one in limit)
            kind = _KINDS[type(error.instance)]
            return {
                "reason": "FieldValueTypeInvalid",
                "field": field,
                "message": f'Invalid value: "{kind}": {field} in body must be of type {kinds}: "{kind}"',
            }
        case "pattern":
            said = f"{field} in body should match '{limit}'"
        case "minLength":
            said = f"{field} in body should be at least {limit} chars long"
        case "minimum":
            said = f"{field} in body should be greater than or equal to {limit}"
        case "maximum":
            said = f"{field} in body should be less than or equal to {limit}"
        case _:
            said = error.message
    return {"reason": "FieldValueInvalid", "field": field, "message": f"Invalid value: {value}: {said}"}


def _field(path: Any) -> str:
    named = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return named.removeprefix(".")


def _duplicates(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    """Items of a list of type map with the same keys."""
    if schema.get("x-kubernetes-list-type") == "map" and isinstance(value, list):
        seen = []
        for index, item in enumerate(value):
            keys = {name: item.get(name) for name in schema["x-kubernetes-list-map-keys"]}
            if keys in seen:
                yield {
                    "reason": "FieldValueDuplicate",
                    "field": f"{path}[{index}]",
                    "message": f"Duplicate value: {json.dumps(keys, separators=(',', ':'))}",
                }
            seen.append(keys)
    for part, inner, step in _parts(value, schema):
        yield from _duplicates(part, inner, f"{path}{step}".removeprefix("."))


#: The CEL rules that apply to a new object, in Python.
_RULES: dict[str, Callable[[Any], bool]] = {
    "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')": lambda body: bool(
        re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", body["metadata"]["name"])
    ),
    "size(self.metadata.name) <= 63": lambda body: len(body["metadata"]["name"]) <= 63,
    "self in ['trainer.kubeflow.org/trainjob-controller', 'kueue.x-k8s.io/multikueue']": lambda value: value
    in ("trainer.kubeflow.org/trainjob-controller", "kueue.x-k8s.io/multikueue"),
}


def _broken_rules(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if not _RULES.get(rule["rule"], lambda value: True)(value):
            shown = json.dumps(value) if isinstance(value, str) else '"object"'
            yield {
                "reason": "FieldValueInvalid",
                "field": path or "<nil>",
                "message": f"Invalid value: {shown}: {rule['message']}",
            }
    for part, inner, step in _parts(value, schema):
        yield from _broken_rules(part, inner, f"{path}{step}".removeprefix("."))


def _parts(value: Any, schema: Schema) -> Iterator[tuple[Any, Schema, str]]:
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield item, schema["items"], f"[{index}]"
    elif isinstance(value, dict):
        for name, held in value.items():
            part = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if isinstance(part, dict):
                yield held, part, f".{name}"
