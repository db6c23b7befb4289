"""The page's own modules, styles and some data, as one HTML file that needs no server."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from moeash.core.plain import json_text
from moeash.errors import ExportError
from moeash.service.web import web_folder

ENTRY = "report.js"
STYLES = ("style/tokens.css", "style/base.css", "style/parts.css")

_IMPORT = re.compile(r"(from|import\()(\s*)'(\.[^']+)'")

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline' data:; style-src 'unsafe-inline'">
<title>@title@</title>
<style>
@styles@</style>
<script type="importmap">@modules@</script>
</head>
<body>
<main id="main"></main>
<script type="application/json" id="report">@data@</script>
<script type="module">import '@entry@';</script>
</body>
</html>
"""


def report_html(data: dict[str, Any], *, title: str) -> str:
    """Return the document: styles, modules and data in one file."""
    folder = web_folder()
    modules = {
        f"moeash/{name}": _as_url(text) for name, text in sorted(_modules(folder, ENTRY).items())
    }
    styles = "".join((folder / name).read_text("utf-8") for name in STYLES)
    parts = {
        "title": _escaped(title),
        "styles": styles,
        "modules": json.dumps({"imports": modules}),
        # Nothing in the data may end the element it stands in.
        "data": json_text(data).replace("<", "\\u003c"),
        "entry": f"moeash/{ENTRY}",
    }
    return re.sub(r"@(\w+)@", lambda found: parts[found[1]], _PAGE)


def _modules(folder: Path, entry: str) -> dict[str, str]:
    """Return a module and all it imports, by their paths; imports name paths, not places."""
    found: dict[str, str] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        path = folder / name

        def bare(match: re.Match[str], here: Path = path.parent) -> str:
            target = (here / match[3]).resolve().relative_to(folder).as_posix()
            waiting.append(target)
            return f"{match[1]}{match[2]}'moeash/{target}'"

        try:
            found[name] = _IMPORT.sub(bare, path.read_text("utf-8"))
        except OSError as error:
            raise ExportError(f"a part of the report cannot be read: {error}") from error
    return found


def _as_url(text: str) -> str:
    encoded = base64.b64encode(text.encode()).decode("ascii")
    return f"data:text/javascript;charset=utf-8;base64,{encoded}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
