"""Turns a CustomResourceDefinition into a page: every field with its type, limits, default and rules. Pure.

Called by `__main__`, which writes the pages, and by the test that holds them to the schemas. The fields are
those of the API server's structural schemas:
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

# What a schema says of a value, and the sentence for it. `{}` is the number or the text.
_LIMITS = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minimum": "{} or more",
    "maximum": "{} or less",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
    "maxProperties": "at most {} entries",
    "pattern": "matches `{}`",
}
_ONE = {"minLength": "not empty", "minItems": "not empty"}
_PAGE = re.compile(r"\bdocs/([\w/-]+\.md)")


def page(definition: Schema, source: str) -> str:
    """Return the page on a CRD's one version, in Markdown; `source` is the CRD's file, from the root.

    Raises:
        ValueError: a field has no description, or the CRD has other than one version.
    """
    spec = definition["spec"]
    versions = spec["versions"]
    if len(versions) != 1:
        raise ValueError(f"{source} has {len(versions)} versions; this page is for one")
    names, version = spec["names"], versions[0]
    schema = version["schema"]["openAPIV3Schema"]
    parts = [
        f"# {names['kind']}",
        f"<!-- Made from {source} by `make reference`. Change that file, not this one. -->",
        _prose(schema["description"]),
        _facts(spec, version),
        *_columns(names, version),
        *_rules(schema),
        "## Fields",
        *_fields(schema, "", {}),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(spec: Schema, version: Schema) -> str:
    names = spec["names"]
    short = ", ".join(f"`{name}`" for name in (names["plural"], *names.get("shortNames", [])))
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            f"| `apiVersion` | `{spec['group']}/{version['name']}` |",
            f"| `kind` | `{names['kind']}` |",
            f"| scope | {spec['scope']} |",
            f"| for kubectl | {short} |",
        ]
    )


def _columns(names: Schema, version: Schema) -> list[str]:
    columns = version.get("additionalPrinterColumns", [])
    rows = [
        f"| {one['name'].upper()}{' (`-o wide`)' if one.get('priority') else ''} | `{one['jsonPath'][1:]}` "
        f"| {one.get('description', '')} |"
        for one in columns
    ]
    short = next(iter(names.get("shortNames", [])), names["plural"])
    return [
        f"## Columns of `kubectl get {short}`",
        "\n".join(["| column | field | what it is |", "|---|---|---|", *rows]),
    ]


def _fields(schema: Schema, path: str, seen: dict[int, str]) -> Iterator[str]:
    """Yield a section for each field below `path`; `seen` has where each shared group of fields stands."""
    required = set(schema.get("required", []))
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield f"### `{here}`"
        yield _shape(field, required=name in required)
        yield _described(field, here)
        yield from _rules(field)
        inner, below = _inner(field, here)
        if inner is not field:
            yield from _rules(inner)
        properties = inner.get("properties")
        if properties and (there := seen.get(id(properties))):
            yield f"Its fields are those of [`{there}`](#{_anchor(there)})."
        elif properties:
            seen[id(properties)] = here
            yield from _fields(inner, below, seen)


def _inner(field: Schema, here: str) -> tuple[Schema, str]:
    """Return the schema whose fields come next, and their path: a list's entry, a map's value."""
    if field.get("type") == "array":
        return field["items"], f"{here}[]"
    values = field.get("additionalProperties")
    return (values, f"{here}.NAME") if isinstance(values, dict) else (field, here)


def _anchor(path: str) -> str:
    return re.sub(r"[^\w-]", "", path.lower())


def _described(field: Schema, here: str) -> str:
    if here == "metadata":
        return "Kubernetes' own: the name, labels and annotations."
    if "description" not in field:
        raise ValueError(f"{here} has no description")
    return _prose(field["description"])


def _shape(field: Schema, *, required: bool) -> str:
    words = [_type(field), *_limits(field)]
    if "default" in field:
        words.append(f"default {_value(field['default'])}")
    if required:
        words.append("**required**")
    return ", ".join(words) + "."


def _type(field: Schema) -> str:
    kind = field.get("type", "anything")
    if kind == "array":
        return f"List of {_of(field['items'])}"
    values = field.get("additionalProperties")
    if isinstance(values, dict):
        return f"Map from names to {_of(values)}"
    if field.get("x-kubernetes-preserve-unknown-fields"):
        return "Object with any fields"
    return kind.capitalize() + (f" ({field['format']})" if "format" in field else "")


def _of(inner: Schema) -> str:
    """Return what a list or a map is of: `strings (at most 63 characters)`."""
    limits = _limits(inner)
    return f"{inner.get('type', 'anything')}s" + (f" ({', '.join(limits)})" if limits else "")


def _limits(field: Schema) -> list[str]:
    found = [
        _ONE[key] if key in _ONE and field[key] == 1 else sentence.format(field[key])
        for key, sentence in _LIMITS.items()
        if key in field
    ]
    if "enum" in field:
        found.insert(0, f"one of {', '.join(_value(one) for one in field['enum'])}")
    if field.get("x-kubernetes-list-type") == "set":
        found.append("none twice")
    if keys := field.get("x-kubernetes-list-map-keys"):
        found.append(f"one for each {' and '.join(f'`{key}`' for key in keys)}")
    return found


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, dict):
        return "`{" + ", ".join(f"{key}: {_value(one).strip('`')}" for key, one in value.items()) + "}`"
    return f"`{value}`"


def _rules(schema: Schema) -> list[str]:
    """Return what the API server refuses besides, in the words that it refuses it with."""
    rules = schema.get("x-kubernetes-validations", [])
    if not rules:
        return []
    words = "words like these" if any("messageExpression" in one for one in rules) else "these words"
    told = [f"* {one['message']}  \n  `{' '.join(one['rule'].split())}`" for one in rules]
    return [f"Refused with {words} where the rule does not hold:", "\n".join(told)]


def _prose(text: str) -> str:
    """Return a description as Markdown: indented lines are an example, a page that it names is a link."""
    parts: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        lines = paragraph.splitlines()
        first = next((at for at, line in enumerate(lines) if line.startswith("  ")), len(lines))
        if said := "\n".join(lines[:first]).strip():
            parts.append(_PAGE.sub(r"[docs/\1](../\1)", said))
        if example := [line.removeprefix("  ") for line in lines[first:]]:
            parts.append("\n".join(["```", *example, "```"]))
    return "\n\n".join(parts)
