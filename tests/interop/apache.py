"""Apache with mod_auth_openidc as a resource server, and TLS before the key set: it takes none without."""

import contextlib
import http.server
import os
import shutil
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import trustme
from tests.cluster.running import until
from tests.interop.process import folder_for_all, log_of, missing, started
from tests.interop.verifier import Guarding, OverHttp

from mintmark.cli.demonstration.loopback import free_ports

MODULES = Path("/usr/lib/apache2/modules")

LEAST_CACHE = 300
"""Seconds: the module takes no shorter ones. It asks for a key that it does not know in between."""

CONFIGURATION = """
ServerRoot "{folder}"
DefaultRuntimeDir "{folder}"
PidFile "{folder}/pid"
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
ErrorLog "/dev/stderr"
DocumentRoot "{folder}/www"
{modules}
{user}
StartServers 1
ServerLimit 1
ThreadsPerChild 8
MaxRequestWorkers 8
MinSpareThreads 1
MaxSpareThreads 8
OIDCCABundlePath "{folder}/ca.pem"
OIDCOAuthVerifyJwksUri {jwks_uri}
OIDCJWKSRefreshInterval {cache}
<Location "/">
  AuthType oauth20
  <RequireAll>
    Require claim "iss:{issuer}"
    Require claim "aud:{audience}"
  </RequireAll>
</Location>
"""


def loaded() -> str:
    """The modules that the configuration needs and that are not built in."""
    if not (MODULES / "mod_auth_openidc.so").exists():
        missing("mod_auth_openidc is missing (Debian, Ubuntu: apt install libapache2-mod-auth-openidc)")
    names = ("mpm_event", "authn_core", "authz_core", "auth_openidc", "dir")
    return "\n".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in names)


@contextlib.contextmanager
def tls_before(issuer: str, folder: Path) -> Iterator[str]:
    """The URL of a reverse proxy with TLS whose authority is ``folder/ca.pem``.

    As load balancers do, it asks again when a connection breaks: mod_auth_openidc says the same, 401, of a
    token and of a key set that did not come, so a fetch that failed could not be told from a refusal.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    upstream = httpx2.Client(base_url=issuer, timeout=10, trust_env=False)

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name of http.server
            def asked() -> httpx2.Response | None:
                with contextlib.suppress(httpx2.HTTPError):
                    return upstream.get(self.path).raise_for_status()
                return None

            answer = until(asked, "the issuer answers", patience=30)
            assert answer is not None
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["content-type"])
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            upstream.close()


@contextlib.contextmanager
def apache(guarding: Guarding, folder: Path) -> Iterator[OverHttp]:
    """Apache on a free port; without it or its module tests fail in CI and skip elsewhere."""
    program = shutil.which("apache2", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        missing("apache2 is missing (Debian, Ubuntu: apt install apache2-bin)")
    del folder  # Those of tests are closed to www-data.
    with folder_for_all("apache") as folder, tls_before(guarding.issuer, folder) as tls:
        (folder / "www").mkdir()
        (folder / "www" / "index.html").write_text("ok\n")
        (port,) = free_ports(1)
        text = CONFIGURATION.format(
            folder=folder,
            port=port,
            modules=loaded(),
            user="User www-data\nGroup www-data" if os.getuid() == 0 else "",
            jwks_uri=guarding.jwks_uri.replace(guarding.issuer, tls),
            cache=max(guarding.cache, LEAST_CACHE),
            issuer=guarding.issuer,
            audience=guarding.audience,
        )
        (folder / "httpd.conf").write_text(text)
        with started([program, "-D", "FOREGROUND", "-f", str(folder / "httpd.conf")], folder) as process:

            def listens() -> bool:
                assert process.poll() is None, log_of(folder)
                with contextlib.suppress(httpx2.HTTPError):
                    return httpx2.get(f"http://127.0.0.1:{port}/", trust_env=False).status_code == 401
                return False

            until(listens, "Apache listens", log=lambda: log_of(folder))
            service = OverHttp(f"http://127.0.0.1:{port}")
            with contextlib.closing(service):
                yield service
