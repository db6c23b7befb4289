"""What a study has measured: evaluations, points, fronts, generations, solutions, picks."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from moeash.evaluation.outcome import Status
from moeash.exports.interop.tables import TableKind, table_bytes
from moeash.service.context import Context
from moeash.service.views.documents import (
    EvaluationPage,
    Front,
    Generations,
    PickDocument,
    Points,
    SolutionDetail,
    Timeline,
    evaluation_document,
)
from moeash.service.views.etags import etag_of, unchanged
from moeash.service.views.timeline import timeline_of
from moeash.study.spec.output import Pick
from moeash.study.storage.records import Stage
from moeash.study.storage.team.listing import EvaluationOrder

Number = Annotated[int, Path(ge=1, lt=2**31)]

TABLE_TYPES: dict[TableKind, str] = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
}

NO_POINTS = Points(
    numbers=[],
    stage=[],
    status=[],
    size_bytes=[],
    metric=[],
    generation=[],
    worker=[],
    workers=[],
    front=[],
    shown=0,
    total=0,
    drawable=0,
    last=0,
).model_dump()

NO_TIMELINE = Timeline(began_at_s=None, length_s=0, pauses=[], items=[], workers=0, lost=0)


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(
        prefix="/studies/{name}", tags=["results"], dependencies=[Depends(context.auth.viewer)]
    )
    studies, charts, listing = context.studies, context.charts, context.studies.listing

    @routes.get("/front")
    def show_front(
        name: str, generation: Annotated[int | None, Query(ge=0, lt=2**31)] = None
    ) -> Front:
        """Show the Pareto front, as it is or as it was after a generation."""
        study = studies.stored(name)
        if study is None:
            return Front(items=[], generation=generation, hypervolume=None)
        return Front(
            items=studies.front(study, generation),
            generation=generation,
            hypervolume=listing.hypervolume(study.record.id, generation),
        )

    @routes.get("/points", response_model=Points)
    def show_points(
        name: str,
        request: Request,
        columns: Annotated[int, Query(ge=1, le=2000)] = 200,
        rows: Annotated[int, Query(ge=1, le=2000)] = 150,
        after: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    ) -> Response:
        """Show the points of a chart, thinned; the front always whole."""
        study = studies.stored(name)
        if study is None:
            return JSONResponse(NO_POINTS)
        chart = charts.of(study.record)
        tag = etag_of(study.record.id, chart.last, chart.columns.tally(), columns, rows, after)
        if unchanged(request, tag):
            return Response(status_code=304, headers={"ETag": tag})
        document = chart.document(chart.thinned(columns, rows, after=after))
        return JSONResponse(document, headers={"ETag": tag})

    @routes.get("/timeline")
    def show_timeline(
        name: str,
        cells: Annotated[int, Query(ge=10, le=2000)] = 300,
        rows: Annotated[int, Query(ge=1, le=500)] = 40,
    ) -> Timeline:
        """Show which worker evaluated what when, thinned, and how busy each was."""
        study = studies.stored(name)
        if study is None:
            return NO_TIMELINE
        return timeline_of(charts.of(study.record).columns, cells=cells, rows=rows)

    @routes.get("/evaluations")
    def list_evaluations(
        name: str,
        after: Annotated[str | None, Query(max_length=1000)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        stage: Stage | None = None,
        status: Status | None = None,
        front: Annotated[bool, Query(description="Only those on the front.")] = False,
        sort: EvaluationOrder = "number",
        order: Literal["asc", "desc"] = "asc",
    ) -> EvaluationPage:
        """List evaluations, a page at a time. Sorted by a value, those without it are left out."""
        study = studies.stored(name)
        if study is None:
            return EvaluationPage(items=[], next=None, total=0)
        on_front = set(charts.of(study.record).front().tolist())
        found, cursor, total = listing.evaluations(
            study.record.id,
            stage=stage,
            status=status,
            numbers=on_front if front else None,
            order=sort,
            downwards=order == "desc",
            after=after,
            limit=limit,
        )
        items = [evaluation_document(study.facts, record, on_front) for record in found]
        return EvaluationPage(items=items, next=cursor, total=total)

    @routes.get(
        "/evaluations.{kind}",
        response_class=Response,
        responses={
            200: {"content": {type_: {} for type_ in TABLE_TYPES.values()}},
        },
    )
    def download_evaluations(name: str, kind: TableKind) -> Response:
        """Download all evaluations as a table."""
        study = studies.study(name)
        return Response(
            table_bytes(study, kind),
            media_type=TABLE_TYPES[kind],
            headers={"Content-Disposition": f'attachment; filename="evaluations.{kind}"'},
        )

    @routes.get("/generations", response_model=Generations)
    def list_generations(name: str) -> Response:
        """List the generations of the search."""
        study = studies.stored(name)
        generations = [] if study is None else study.generations()
        # As they were stored and checked: thousands, of plain values.
        return JSONResponse({"items": [vars(generation) for generation in generations]})

    @routes.get("/solutions/{number}")
    def show_solution(name: str, number: Number) -> SolutionDetail:
        """Show a complete evaluation and those it was made of."""
        return studies.solution(studies.study(name), number)

    @routes.get("/pick")
    def pick_solution(
        name: str,
        how: Pick = "smallest",
        max_bytes: Annotated[int | None, Query(ge=0, lt=2**62)] = None,
        max_drop: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    ) -> PickDocument:
        """Say which solution a rule takes, and the command that takes the same."""
        return studies.pick(studies.study(name), how, max_bytes, max_drop)

    return routes
