"""Envoy with its filter ``jwt_authn``, before nothing: what passes the filter is answered 200."""

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from tests.cluster.running import until
from tests.interop.process import log_of, missing, started
from tests.interop.verifier import Guarding, OverHttp

_TYPE = "type.googleapis.com/envoy.extensions.filters"


def _address(host: str | None, port: int | None) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def configuration(guarding: Guarding) -> dict[str, Any]:
    """Envoy's, with ports of its own choice."""
    provider = {
        "issuer": guarding.issuer,
        "audiences": [guarding.audience],
        "remote_jwks": {
            "http_uri": {"uri": guarding.jwks_uri, "cluster": "issuer", "timeout": "5s"},
            "cache_duration": f"{guarding.cache}s",
            "retry_policy": {"num_retries": 3},
        },
    }
    authentication = {
        "@type": f"{_TYPE}.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"mintmark": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "mintmark"}}],
    }
    router = {"@type": f"{_TYPE}.http.router.v3.Router"}
    connections = {
        "@type": f"{_TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [
            {"name": "jwt_authn", "typed_config": authentication},
            {"name": "router", "typed_config": router},
        ],
    }
    issuer = urlsplit(guarding.issuer)
    endpoint = {"endpoint": {"address": _address(issuer.hostname, issuer.port)}}
    return {
        "admin": {"address": _address("127.0.0.1", 0)},
        "static_resources": {
            "listeners": [
                {
                    "name": "ingress",
                    "address": _address("127.0.0.1", 0),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": connections}]}],
                }
            ],
            "clusters": [
                {
                    "name": "issuer",
                    "type": "STATIC",
                    "connect_timeout": "2s",
                    "load_assignment": {
                        "cluster_name": "issuer",
                        "endpoints": [{"lb_endpoints": [endpoint]}],
                    },
                }
            ],
        },
    }


@contextlib.contextmanager
def envoy(guarding: Guarding, folder: Path) -> Iterator[OverHttp]:
    """Envoy on a port of its own choice; without its program tests fail in CI and skip elsewhere."""
    # The wheel's command starts this program as a child; it is started itself, to be ended itself.
    packages = Path(sys.prefix).glob("lib/python*/site-packages/envoy/_bin/envoy")
    program = next((str(path) for path in packages), None) or shutil.which("envoy")
    if program is None:
        missing("envoy is missing: run scripts/setup (there is a wheel of it for Linux on x86_64)")
    own = folder / "envoy"
    own.mkdir()
    (own / "envoy.json").write_text(json.dumps(configuration(guarding)))
    admin = own / "admin"
    command = [
        program, "--config-path", "envoy.json", "--admin-address-path", str(admin), "--concurrency", "1",
        "--disable-hot-restart", "--log-level", "warn",
    ]  # fmt: skip
    with started(command, own) as process:

        def listener() -> str:
            assert process.poll() is None, log_of(own)
            with contextlib.suppress(OSError, httpx2.HTTPError, LookupError):
                found = httpx2.get(f"http://{admin.read_text()}/listeners?format=json", trust_env=False)
                address = found.json()["listener_statuses"][0]["local_address"]["socket_address"]
                return f"http://{address['address']}:{address['port_value']}"
            return ""

        service = OverHttp(until(listener, "Envoy listens", log=lambda: log_of(own)))
        with contextlib.closing(service):
            yield service
