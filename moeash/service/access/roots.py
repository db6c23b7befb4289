"""What specs from the network may name: code, files, places to write, and clusters.

Whoever may launch studies may use this machine's processors, and nothing else of it. A spec is
checked by the code of the command line first, then for what it names.
"""

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from moeash.errors import InputError, SpecError
from moeash.names import defines, is_allowed, is_reference
from moeash.options.tables import refuse
from moeash.study.spec.reading import spec_of_text
from moeash.study.spec.spec import StudySpec
from moeash.study.spec.starting import start_at

UPLOADS, OUTPUTS = "uploads", "output"
"""Folders in the service's own."""


class Roots:
    """What specs from the network may name.

    Attributes:
        uploads: the folder of uploaded files; always a root.
        outputs: the folder below which studies write.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        roots: Iterable[str | os.PathLike[str]] = (),
        allow_modules: Collection[str] = (),
        ray_addresses: Collection[str] = (),
    ) -> None:
        """Make the folders that are missing.

        Args:
            folder: the service's own.
            roots: folders that specs may read.
            allow_modules: modules, packages of them, or single functions ``package.module:name``,
                that specs may name.
            ray_addresses: clusters that specs may name.

        Raises:
            InputError: a root is no folder, or the service's own cannot be made.
        """
        own = Path(folder)
        try:
            for name in (UPLOADS, OUTPUTS):
                (own / name).mkdir(parents=True, exist_ok=True)
            self.uploads = (own / UPLOADS).resolve(strict=True)
            self.outputs = (own / OUTPUTS).resolve(strict=True)
        except OSError as error:
            raise InputError(
                f"the service cannot write in {str(own)!r}: {error.strerror}; give it another "
                "--folder"
            ) from error
        self._roots = [self.uploads]
        for root in roots:
            try:
                self._roots.append(Path(root).resolve(strict=True))
            except (OSError, RuntimeError, ValueError) as error:
                raise InputError(f"--root {os.fspath(root)!r} is no folder: {error}") from error
        self._modules = frozenset(allow_modules)
        self._addresses = frozenset(ray_addresses)

    def admit(self, toml: str) -> StudySpec:
        """Return the spec of a text, with the paths that are really meant.

        Args:
            toml: the spec, as a file says it.

        Raises:
            SpecError: every problem: it is none, or names what it may not.
        """
        spec = spec_of_text(toml)
        problems: list[str] = []
        if not spec.name.strip("."):
            problems.append(f"name: no folder can be called {spec.name!r}; choose another name")
        problems += self._of_code(spec)
        address = spec.backend.address
        if address is not None and address not in self._addresses:
            problems.append(
                f"backend.address: the service decides on which cluster studies run, not "
                f"{address!r:.100}; leave it out"
            )
        checkpoint = self._read(spec.network.checkpoint, "network.checkpoint", problems)
        if checkpoint is not None and not Path(checkpoint).is_file():
            problems.append(f"network.checkpoint: {spec.network.checkpoint!r:.200} is a folder")
        spec = replace(spec, network=replace(spec.network, checkpoint=checkpoint))
        spec = start_at(spec, self._read(spec.start, "method.start", problems))
        if spec.data is not None:
            root = self._read(spec.data.root, "data.root", problems)
            spec = replace(spec, data=replace(spec.data, root=root))
        if spec.output is not None:
            folder = str(self.outputs / spec.name)
            spec = replace(spec, output=replace(spec.output, folder=folder))
        refuse(problems, SpecError, "spec: ")
        return spec

    def settings(self, spec: StudySpec) -> tuple[str, ...]:
        """Return what makes a launch of an admitted spec's text use the paths that were checked.

        Args:
            spec: from :meth:`admit`.
        """
        paths = {
            "network.checkpoint": spec.network.checkpoint,
            "data.root": None if spec.data is None else spec.data.root,
            "method.start": spec.start,
            "output.folder": None if spec.output is None else spec.output.folder,
        }
        # A JSON text of ASCII is a TOML text.
        return tuple(f"{key}={json.dumps(path)}" for key, path in paths.items() if path is not None)

    def _read(self, given: str | None, place: str, problems: list[str]) -> str | None:
        """Return the path without links of what may be read.

        Whether a file lies outside is not told apart from whether it is there.
        """
        if given is None:
            return None
        for base in self._roots:  # a relative path is looked for in the uploads first
            try:
                found = (base / given).resolve(strict=True)
            except (OSError, RuntimeError, ValueError):  # too long, a loop of links, a null
                continue
            is_inside = any(found.is_relative_to(root) for root in self._roots)
            if is_inside and (found.is_file() or found.is_dir()):
                return str(found)
        problems.append(
            f"{place}: {given!r:.200} is not in a folder that this service may read; upload the "
            "file, or start the service with --root FOLDER"
        )
        return None

    def _of_code(self, spec: StudySpec) -> Iterable[str]:
        for place, reference in spec.user_code.items():
            module, _, function = reference.partition(":")
            if not is_reference(reference):
                yield f"{place}: {reference!r:.100} is not package.module:function"
            elif not is_allowed(reference, self._modules):
                yield (
                    f"{place}: this service runs no code of {module!r:.100}; name something "
                    f"built in, or start it with --allow-module {module:.100}"
                )
            elif reference not in self._modules and not defines(module, function):
                yield (
                    f"{place}: {module!r:.100} is allowed, but defines no function "
                    f"{function!r:.100} of its own that the service can see; start it with "
                    f"--allow-module {reference:.200} to allow that one"
                )
