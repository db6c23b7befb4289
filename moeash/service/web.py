"""Where the page's files lie, and what the browser is told of them."""

from pathlib import Path

from moeash.errors import InputError

_WEB = Path(__file__).with_name("web")
"""In a checkout a link to ``dashboards/web``; in a wheel a folder with its files."""


def web_folder() -> Path:
    """Return the folder whose files are served under ``/static``, ``index.html`` among them.

    Raises:
        InputError: the installation came without them.
    """
    folder = _WEB.resolve()
    if not (folder / "index.html").is_file():
        raise InputError(
            f"{_WEB} has no index.html, so there is no page to serve; install the wheel again, or "
            "check the repository out with symbolic links"
        )
    return folder
