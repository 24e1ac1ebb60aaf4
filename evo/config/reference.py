"""The reference of everything that can be written in a configuration, made from the schema and the registries themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evo.config.starter import config_schema
from evo.registry import TABLES

INTRODUCTION = """\
# Reference

Made by `evo reference` from the configuration's schema and the registries. `evo reference --schema` prints the schema as JSON
for editors. Wherever a name of a table is accepted, `package.module:attribute` is too.
"""


def reference() -> str:
    """Markdown: every key of a configuration with its type, default and meaning, and every name that it may take."""
    schema = config_schema()
    parts = [INTRODUCTION, "## Configuration\n", *_section(schema, schema["$defs"], "")]
    parts.append("\n## Names\n")
    for table, entries in TABLES.items():
        parts += [f"\n### {table}\n", "| name | is |", "|---|---|"]
        parts += [f"| `{name}` | {_target(text)} |" for name, text in entries.items()]
    return "\n".join(parts) + "\n"


def _section(schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[str]:
    yield f"{' '.join(schema.get('description', '').split())}\n"
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    nested: list[tuple[str, Mapping[str, Any]]] = []
    for name, field in schema["properties"].items():
        below = _definition(field, definitions)
        if below is not None and prefix.count(".") < 3 and name != "inner":
            nested.append((f"{prefix}{name}", below))
        default = "required" if name in schema.get("required", ()) else _default(field)
        meaning = field.get("description", "") if below is None else f"see {prefix}{name} below"
        yield f"| `{prefix}{name}` | {_type(field)} | {default} | {_escaped(meaning)} |"
    for path, below in nested:
        yield f"\n### {path}\n"
        yield from _section(below, definitions, f"{path}.")


def _definition(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The section behind a key, also of a list's items."""
    options = [field, *field.get("anyOf", ()), *field.get("allOf", ()), field.get("items", {})]
    for option in options:
        if "$ref" in option:
            found: Mapping[str, Any] = definitions[option["$ref"].rpartition("/")[2]]
            return found
    return None


def _type(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return " or ".join(map(str, field["enum"]))
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    if "$ref" in field or "allOf" in field:
        return "section"
    return {"object": "mapping", "null": "nothing"}.get(field.get("type", "any"), str(field.get("type", "any")))


def _default(field: Mapping[str, Any]) -> str:
    return f"`{field['default']}`" if "default" in field and field["default"] is not None else "-"


def _target(text: str) -> str:
    return f"`{text}`" if ":" in text and " " not in text else _escaped(text)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
