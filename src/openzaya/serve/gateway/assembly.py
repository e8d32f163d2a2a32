"""Gateways put together: over our engine, or over a pool of upstreams."""

from contextlib import AbstractAsyncContextManager

from starlette.types import ASGIApp

from openzaya.serve.engine_routes import engine_routes, running
from openzaya.serve.gateway.app import create_gateway
from openzaya.serve.gateway.config import GatewayConfig
from openzaya.serve.gateway.engine import EngineBackend
from openzaya.serve.gateway.metrics import GatewayMetrics
from openzaya.serve.gateway.pass_through import Pool
from openzaya.serve.gateway.service import Gateway
from openzaya.serve.gateway.upstreams import UpstreamBackend
from openzaya.serve.keys import Keys
from openzaya.serve.service import Service
from openzaya.ttc.journal import Journal


def engine_gateway(
    service: Service, config: GatewayConfig, journal: Journal, *, max_slots: int
) -> tuple[ASGIApp, Gateway]:
    """Return the application over an engine in this process, and what is told to drain."""
    gateway = Gateway(
        config=config,
        keys=service.keys,
        backend=EngineBackend(service, max_slots=max_slots, run_share=config.run_share),
        journal=journal,
        metrics=GatewayMetrics(service.metrics),
    )
    app = create_gateway(gateway, [running(service), journal], engine_routes(service))
    return app, gateway


def upstream_gateway(
    pool: Pool,
    opening: AbstractAsyncContextManager[object],
    config: GatewayConfig,
    keys: Keys,
    journal: Journal,
) -> tuple[ASGIApp, Gateway]:
    """Return the application over a pool, which `opening` opens, and what is told to drain."""
    backend = UpstreamBackend(pool, slow_reader_s=config.slow_reader_s)
    gateway = Gateway(config=config, keys=keys, backend=backend, journal=journal)
    return create_gateway(gateway, [opening, journal]), gateway
