"""Numbers for Prometheus."""

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST

from moeash.service.access.auth import Auth
from moeash.service.metrics import Metrics


def router(auth: Auth, metrics: Metrics) -> APIRouter:
    """Return the route, which is not below ``/api/v1``.

    Args:
        auth: lets viewers in; Prometheus has a token of its own.
        metrics: is shown.
    """
    routes = APIRouter(tags=["health"])

    @routes.get(
        "/metrics",
        dependencies=[Depends(auth.viewer)],
        summary="Numbers for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    def show_metrics() -> Response:
        """Return all numbers in Prometheus' text format."""
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return routes
