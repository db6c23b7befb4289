"""Studies: listed, described, created, started, stopped, labelled and deleted."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from moeash.errors import StudyExistsError, StudyNotFoundError
from moeash.launch.base import Launch
from moeash.launch.deleting import delete_study as erase
from moeash.service.access.auth import Identity
from moeash.service.context import Context
from moeash.service.problems import Problem
from moeash.service.protection.logs import mention
from moeash.service.views.documents import Body, StudyDetail, StudyItem, StudyPage
from moeash.service.views.toml import toml_of
from moeash.study.spec.reading import apply_override, plain_of_text
from moeash.study.spec.spec import StudySpec
from moeash.study.storage.team.listing import StudyOrder, Wanted
from moeash.study.storage.team.standings import Standing

Tag = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[^\x00-\x1f]+$")]


class NewStudy(Body):
    """A study to create."""

    toml: str = Field(max_length=1 << 18, description="The spec, as a file says it.")


class Clone(Body):
    """A study like another one."""

    name: str = Field(min_length=1, max_length=200, description="Of the new study.")
    changes: list[Annotated[str, Field(max_length=10_000)]] = Field(
        [], max_length=100, description="KEY=VALUE each, as `moeash run --set` takes them."
    )


class Start(Body):
    """How a study goes on."""

    retry_failed: bool = False
    accept_baseline: bool = False


class LabelChanges(Body):
    """What to say of a study; what is left out stays."""

    notes: str | None = Field(None, max_length=100_000)
    tags: list[Tag] | None = Field(None, max_length=50)
    pins: list[Annotated[int, Field(ge=1, lt=2**31)]] | None = Field(None, max_length=50)
    archived: bool | None = None


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/studies", tags=["studies"])
    studies, auth, queue, storage = context.studies, context.auth, context.queue, context.storage

    @routes.get("", dependencies=[Depends(auth.viewer)])
    def list_studies(
        status: Standing | None = None,
        tag: Tag | None = None,
        search: Annotated[str | None, Query(max_length=200)] = None,
        archived: bool = False,
        sort: StudyOrder = "updated",
        after: Annotated[str | None, Query(max_length=1000)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> StudyPage:
        """List studies, a page at a time."""
        return studies.page(Wanted(status, tag, search, archived), sort, after, limit)

    @routes.post("", status_code=202)
    def create_study(
        new: NewStudy, response: Response, who: Annotated[Identity, Depends(auth.operator)]
    ) -> StudyItem:
        """Check a spec and start its study; it waits where too many run already."""
        return _begin(new.toml, response, who)

    @routes.get("/{name}", dependencies=[Depends(auth.viewer)])
    def describe_study(name: str) -> StudyDetail:
        """Describe one study."""
        return studies.detail(name)

    @routes.patch("/{name}", dependencies=[Depends(auth.operator)])
    def label_study(name: str, changes: LabelChanges) -> StudyDetail:
        """Change notes, tags, pinned solutions, or put it out of the way."""
        said = changes.model_dump(exclude_none=True)
        lists = {key: tuple(said[key]) for key in ("tags", "pins") if key in said}
        studies.label(name, said | lists)
        return studies.detail(name)

    @routes.delete("/{name}", status_code=204, dependencies=[Depends(auth.operator)])
    def delete_study(name: str) -> None:
        """Delete an archived study and everything it has, or one that was never stored."""
        if not studies.item(name).archived and studies.stored(name) is not None:
            raise Problem(409, "not-archived", f"study {name!r} is not archived; archive it first")
        erase(storage, queue.processes, name, [context.roots.outputs])

    @routes.post("/{name}/clone", status_code=202)
    def clone_study(
        name: str,
        like: Clone,
        response: Response,
        who: Annotated[Identity, Depends(auth.operator)],
    ) -> StudyItem:
        """Start a study like another one, under a name of its own and with changes."""
        plain = plain_of_text(studies.detail(name).toml)
        for change in like.changes:
            apply_override(plain, change)
        return _begin(toml_of(plain | {"name": like.name}), response, who)

    @routes.post("/{name}/start", status_code=202)
    def start_study(
        name: str, how: Start, who: Annotated[Identity, Depends(auth.operator)]
    ) -> StudyItem:
        """Go on with a study that was stopped, has crashed, or has a larger budget now."""
        toml = studies.detail(name).toml
        spec = context.roots.admit(toml)
        launch = _launch(
            toml,
            spec,
            retry_failed=how.retry_failed,
            accept_baseline=how.accept_baseline,
        )
        queue.enqueue(launch, who.name)
        return studies.item(name)

    @routes.post("/{name}/stop", status_code=202, dependencies=[Depends(auth.operator)])
    def stop_study(name: str) -> StudyItem:
        """End a study's process; everything evaluated stays, and it can be started again."""
        studies.item(name)
        queue.stop(name)
        return studies.item(name)

    def _begin(toml: str, response: Response, who: Identity) -> StudyItem:
        spec = context.roots.admit(toml)
        _refuse_another(spec)
        queue.enqueue(_launch(toml, spec), who.name)
        mention(made=spec.name)
        response.headers["Location"] = f"/api/v1/studies/{quote(spec.name)}"
        return studies.item(spec.name)

    def _refuse_another(spec: StudySpec) -> None:
        """Refuse a spec whose name belongs to another study, which running it would find late."""
        try:
            study = studies.study(spec.name)
        except StudyNotFoundError:
            return
        if study.facts.fingerprint != spec.fingerprint():
            changes = "; ".join(study.spec.differences(spec)) or "another specification"
            raise StudyExistsError(
                f"a study named {spec.name!r} exists already and is another one ({changes}); "
                "give this one another name"
            )

    def _launch(toml: str, spec: StudySpec, **how: Any) -> Launch:
        return Launch(spec.name, toml, context.roots.settings(spec), **how)

    return routes
