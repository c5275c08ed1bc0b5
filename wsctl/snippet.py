"""The snippet: the server-level part of the gateway, which an administrator includes once.

Responsible for: its text in each mode of routing, and that no setting can leave its place in it. Not responsible for:
the http-level map that goes with it (`routes`), nor for writing and checking. Pure.

Facts about Nginx that the text rests on (`tests/integration/test_routes_nginx.py`, `test_routing_modes.py`):

- X-Accel-Redirect in an answer makes Nginx serve its own internal locations: a workspace must not have that power;
- `if`, `return` and `rewrite` come before `auth_request`, `allow` and `deny`;
- a cookie's Domain and a redirect's host are the workspace's words: they are put back onto the user's own host.
"""

from __future__ import annotations

import hashlib
import re

from wsctl.routebook import BOOK
from wsctl.routes import STATUS, GatewaySettings, Mode, check_settings, mark

ROUTE = ".wsctl-route"
"""Below the prefix, inside Nginx only: the question to the endpoint."""

DIGEST_CHARS = 12
_ITSELF = "@snippet@"

PLAIN_FILE = re.compile(r"(?:/[A-Za-z0-9_.@+~ -]+)+", re.ASCII)

LOCATION = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+", re.ASCII)
"""The path of a location of the administrator's. Use `fullmatch`."""


def render_snippet(settings: GatewaySettings) -> str:
    """The server-level text. Raises ValueError for a setting that isn't safe in it."""
    text = _text(settings)
    return text.replace(_ITSELF, hashlib.sha256(text.encode("ascii")).hexdigest()[:DIGEST_CHARS])


def snippet_digest(settings: GatewaySettings) -> str:
    """By which a gateway tells that it includes the snippet of these settings; see `STATUS`."""
    return hashlib.sha256(_text(settings).encode("ascii")).hexdigest()[:DIGEST_CHARS]


def _text(settings: GatewaySettings) -> str:
    """The snippet, with a mark where its own digest belongs."""
    check_settings(settings)
    for path in (settings.auth_request, settings.wake):
        if path is not None and LOCATION.fullmatch(path) is None:
            raise ValueError(f"not the path of a location: {path!r}; expected something like '/auth'")
    asks = settings.mode is Mode.AUTH_REQUEST
    wake = _WAKE.format(path=settings.wake) if settings.wake is not None else ""
    return _SNIPPET.format(
        errors=_ASK_ERRORS if asks else _lua(settings, "upstream", "find_route(ngx.var.ws_user)") + _ERRORS,
        pages=(_ASK_PAGES if asks else _PAGES).format(
            prefix=settings.path_prefix,
            route=ROUTE,
            wake=wake,
            state=_lua(settings, "state", "find_state(ngx.var.ws_user)"),
        ),
        next_upstream="error" if settings.mode is Mode.DYNAMIC else "off",
        location="/" if settings.mode is Mode.HOST else f"^~ {settings.path_prefix}",
        prefix=settings.path_prefix,
        status=STATUS,
        where=_where(settings),
        status_answer=_status(settings),
        state=_lua(settings, "state", "find_state(ngx.var.ws_user)"),
        auth=_auth(settings),
        path=_path(settings),
        connect=_time("connect_timeout_s", settings.connect_timeout_s),
        read=_time("read_timeout_s", settings.read_timeout_s),
        body=_bytes("max_body_bytes", settings.max_body_bytes),
    )


def _where(settings: GatewaySettings) -> str:
    """What is decided before anything is sent to a workspace, beyond that there is one."""
    if settings.mode is Mode.HOST:
        return ""
    if settings.mode is Mode.REDIRECT:
        name, colon, port = str(settings.node_domain).removeprefix("{node}").partition(":")
        return _REDIRECT.format(suffix=name, port=colon + port) + _SLASH.format(prefix=settings.path_prefix)
    return _SLASH.format(prefix=settings.path_prefix)


def _auth(settings: GatewaySettings) -> str:
    """Whom Nginx asks whether a request may pass."""
    if settings.mode is Mode.AUTH_REQUEST:
        return _ASK.format(path=settings.path_prefix + ROUTE)
    return _NO_AUTH if settings.auth_request is None else _AUTH.format(path=settings.auth_request)


def _path(settings: GatewaySettings) -> str:
    """The path that the workspace sees, and what becomes of paths that it answers."""
    if settings.mode is Mode.HOST:
        return _OWN_HOST
    prefix = settings.path_prefix
    upstream = "wsctl_dynamic" if settings.mode is Mode.DYNAMIC else "$ws_upstream"
    text = _STRIP if settings.strip_prefix else _KEEP
    return text.format(prefix=prefix, base=prefix.replace(".", "[.]"), upstream=upstream)


def _lua(settings: GatewaySettings, variable: str, call: str) -> str:
    """Setting one of the variables from the map that Lua has read; nothing in the other modes."""
    if settings.mode is not Mode.DYNAMIC:
        return ""
    if PLAIN_FILE.fullmatch(settings.map_file) is None:
        raise ValueError(f"not the plain absolute path of a file: {settings.map_file!r}")
    code = BOOK.replace("@file@", settings.map_file)
    return f"    set_by_lua_block $ws_{variable} {{\n{code}        return book.{call}\n    }}\n"


def _status(settings: GatewaySettings) -> str:
    """The answer about the map that this worker has. Naming the variable is what makes `nginx -t` look for it."""
    needs = f"    set $ws_by ${mark(settings)};\n"
    if settings.mode is not Mode.DYNAMIC:
        return needs + f'    return 200 "$ws_map_generation $ws_map_digest {_ITSELF}\\n";\n'
    return needs + _lua(settings, "served", "served()") + f'    return 200 "$ws_served {_ITSELF}\\n";\n'


def _time(name: str, seconds: float) -> str:
    if not 0.001 <= seconds <= 86400 * 365:
        raise ValueError(f"{name}: expected between 1 ms and a year, not {seconds!r}")
    return f"{round(seconds * 1000)}ms"


def _bytes(name: str, count: int) -> str:
    if not 0 <= count < 1 << 62:
        raise ValueError(f"{name}: expected a number of bytes, not {count!r}")
    return str(int(count))


_SLASH = """    absolute_redirect off;
    if ($uri = {prefix}$ws_user) {{ return 308 {prefix}$ws_user/$is_args$args; }}
"""

# The host comes from the map and the settings, never from the request; $request_uri begins with a slash.
_REDIRECT = """    # Whoever asked another host than that of the user's node is sent there.
    if ($host != "${{ws_node}}{suffix}") {{
        add_header Cache-Control no-store always;
        return 302 $scheme://${{ws_node}}{suffix}{port}$request_uri;
    }}
"""

_AUTH = """    auth_request {path};
    auth_request_set $ws_remote_user $upstream_http_x_auth_request_user;
    proxy_set_header X-Forwarded-User $ws_remote_user;
"""

_ASK = """    auth_request {path};
    auth_request_set $ws_answer $upstream_http_x_ws_upstream;
    auth_request_set $ws_state $upstream_http_x_ws_state;
    auth_request_set $ws_remote_user $upstream_http_x_auth_request_user;
    proxy_set_header X-Forwarded-User $ws_remote_user;
"""

_ERRORS = """    error_page 404 = @ws_unknown;
    error_page 502 504 = @ws_unavailable;
    if ($ws_upstream = "") { return 404; }
"""

_ASK_ERRORS = """    error_page 403 404 = @ws_unknown;
    error_page 500 = @ws_unanswered;
    error_page 502 504 = @ws_unavailable;
    if ($ws_user = "") { return 404; }
"""

_NO_AUTH = """    proxy_set_header X-Forwarded-User "";
"""

_STRIP = """    # The workspace sees / as its root: what it sends back is put under the user's path again.
    if ($ws_rest = "") {{ rewrite "(?s)^{base}[^/]+(/.*)\\z" $1 break; }}
    proxy_pass http://{upstream}$ws_rest;
    proxy_set_header X-Forwarded-Prefix {prefix}$ws_user;
    proxy_redirect {prefix}$ws_user/ {prefix}$ws_user/;
    proxy_redirect $scheme://$http_host{prefix}$ws_user/ {prefix}$ws_user/;
    proxy_redirect $scheme://$http_host/ {prefix}$ws_user/;
    proxy_redirect // //;
    proxy_redirect / {prefix}$ws_user/;
    proxy_cookie_path {prefix}$ws_user {prefix}$ws_user;
    proxy_cookie_path / {prefix}$ws_user/;
"""

_KEEP = """    proxy_pass http://{upstream};
    proxy_set_header X-Forwarded-Prefix "";
    proxy_redirect off;
"""

_OWN_HOST = """    proxy_pass http://$ws_upstream;
    proxy_set_header X-Forwarded-Prefix "";
    proxy_redirect off;
    # A cookie for the parent domain would be everybody's.
    proxy_cookie_domain ~. $host;
"""

_WAKE = """    if ($ws_state = stopped) {{ rewrite ^ {path} last; }}
"""

_SNIPPET = """# Generated by `wsctl render-gateway --snippet`. Include it once, inside the server block.
location {location} {{
{errors}{where}
{auth}
{path}
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $ws_connection;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $http_host;
    # A workspace's answer must not steer this server into its internal locations.
    proxy_ignore_headers X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset;

    proxy_buffering off;
    proxy_request_buffering off;
    client_max_body_size {body};
    proxy_connect_timeout {connect};
    proxy_read_timeout {read};
    proxy_send_timeout {read};
    proxy_next_upstream {next_upstream};
}}

# Which map this worker has: `wsctl render-gateway --apply` asks until the new one answers. (`return` comes before
# `allow` and `deny`, hence the `if`.)
location = {prefix}{status} {{
    access_log off;
    default_type text/plain;
    if ($remote_addr !~ "^(?:127[.]|::1$|unix:$)") {{ return 404; }}
{status_answer}}}

{pages}
location @ws_unavailable {{
    default_type text/plain;
{state}    add_header Retry-After 5 always;
    if ($ws_state = migrating) {{ return 503 "This workspace is moving to another server: try again soon.\\n"; }}
    return 502 "The workspace doesn't answer: it may be starting, or its server may be unreachable.\\n";
}}
"""

_PAGES = """location @ws_unknown {{
    default_type text/plain;
{state}{wake}    add_header Retry-After $ws_retry always;
    if ($ws_state = stopped) {{ return 503 "This workspace is stopped.\\n"; }}
    if ($ws_state = starting) {{ return 503 "This workspace is starting: try again in a moment.\\n"; }}
    if ($ws_state = failed) {{ return 503 "This workspace failed to start.\\n"; }}
    return 404 "There is no running workspace at this address.\\n";
}}
"""

_ASK_PAGES = """# The question, see docs/guides/routing.md. Answers are kept as long as they say; while nobody
# answers, the last answers of the past hour go on.
location = {prefix}{route} {{
    internal;
    proxy_pass http://wsctl_endpoint/route;
    proxy_http_version 1.1;
    proxy_pass_request_body off;
    proxy_set_header Content-Length "";
    proxy_set_header Connection "";
    proxy_set_header Upgrade "";
    proxy_set_header Host wsctl;
    proxy_set_header X-Ws-User $ws_user;
    proxy_set_header X-Original-URI $request_uri;
    proxy_set_header X-Original-Method $request_method;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_connect_timeout 1s;
    proxy_read_timeout 3s;
    proxy_cache wsctl_routes;
    proxy_cache_key "$ws_user $http_authorization $http_cookie";
    proxy_cache_lock on;
    proxy_cache_lock_timeout 1s;
    proxy_cache_use_stale error timeout invalid_header updating http_500 http_502 http_503 http_504;
}}

location @ws_unanswered {{
    default_type text/plain;
    add_header Retry-After 5 always;
    return 503 "Nobody can say right now where this workspace is: try again soon.\\n";
}}

""" + _PAGES.replace(
    "    return 404",
    """    if ($ws_state = forbidden) {{ return 403 "This workspace isn't yours to see.\\n"; }}
    return 404""",
)
