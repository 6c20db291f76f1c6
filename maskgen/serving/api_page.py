"""The OpenAPI document as one self-contained HTML page: routes, fields, and a curl line each."""

import html
import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:60em;padding:0 1em}
code,pre{background:#f3f3f3;padding:.1em .3em}pre{overflow-x:auto;padding:.7em}h2{margin-top:2em}
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ddd;padding:.25em .6em;text-align:left;vertical-align:top}"""


def api_page(document: Mapping[str, Any], address: str) -> str:
    """The page.

    Args:
        document: An OpenAPI document.
        address: Of the server, for the curl lines.
    """
    info = document["info"]
    parts = [f"<h1>{_text(info['title'])}</h1><p>{_text(info.get('description', ''))}</p>"]
    parts.append('<p>As a document for programs: <a href="openapi.json">openapi.json</a></p>')
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            parts.append(_route(document, path, method, route, address))
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    return f"{head}<title>{_text(info['title'])}</title><style>{STYLE}</style><main>{''.join(parts)}</main></html>\n"


def _route(document: Mapping[str, Any], path: str, method: str, route: Mapping[str, Any], address: str) -> str:
    """One route."""
    title = f"<h2><code>{_text(method.upper())} {_text(path)}</code></h2><p><b>{_text(route.get('summary', ''))}.</b> "
    about = f"{_text(route.get('description', ''))}</p>"
    content = route.get("requestBody", {}).get("content", {})
    kind: str = next(iter(content), "")
    body: Mapping[str, Any] = content.get(kind, {})
    schema = _resolved(document, body.get("schema", {}))
    rows = [_row(document, name, field, name in schema.get("required", ())) for name, field in schema.get("properties", {}).items()]
    table = f"<table><tr><th>field</th><th>type</th><th></th></tr>{''.join(rows)}</table>" if rows else ""
    lines = "\n".join(_curl(path, method, kind, schema, body, address))
    return f"{title}{about}<pre>{_text(lines)}</pre>{table}"


def _row(document: Mapping[str, Any], name: str, field: Mapping[str, Any], required: bool) -> str:
    """One field."""
    mark = " (required)" if required else ""
    about = field.get("description", "")
    start = f" Default: {json.dumps(field['default'])}." if field.get("default") is not None else ""
    kinds = ", ".join(dict.fromkeys(_kinds(document, field)))
    return f"<tr><td><code>{_text(name)}</code>{mark}</td><td>{_text(kinds)}</td><td>{_text(about + start)}</td></tr>"


def _kinds(document: Mapping[str, Any], field: Mapping[str, Any]) -> Iterator[str]:
    """Types of a field in words."""
    field = _resolved(document, field)
    if "anyOf" in field:
        for one in field["anyOf"]:
            yield from _kinds(document, one)
    elif "enum" in field:
        yield " | ".join(map(str, field["enum"]))
    elif field.get("format") == "binary":
        yield "file"
    elif field.get("type") == "array":
        yield f"list of {' or '.join(_kinds(document, field.get('items', {})))}"
    elif field.get("type") != "null":
        yield str(field.get("type", "any"))


def _curl(path: str, method: str, kind: str, schema: Mapping[str, Any], body: Mapping[str, Any], address: str) -> Iterator[str]:
    """A curl line for each example of a route."""
    start = f"curl {address}{path}"
    if method == "get":
        yield start
    elif kind == "multipart/form-data":
        files = [name for name in schema["required"] if schema["properties"][name].get("format") == "binary"]
        yield f"{start} {' '.join(f'-F {name}=@{name}' for name in files)}"
    else:
        given = [one["value"] for one in body.get("examples", {}).values()]
        fields = {name: field["examples"][0] for name, field in schema.get("properties", {}).items() if field.get("examples")}
        for value in given or [{name: fields[name] for name in schema.get("required", ()) if name in fields}]:
            yield f"{start} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(value))}"


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema, its reference followed."""
    found = schema
    if "$ref" in schema:
        found = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
    return found


def _text(content: Any) -> str:
    return html.escape(str(content))
