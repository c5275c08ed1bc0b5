"""The parts of the route map as text, with places for what `routes` has checked.

Responsible for: what stands in the file besides the entries. Not responsible for: which parts a mode has, nor for any
value that is put into them (`routes`).
"""

from __future__ import annotations

HEAD = """# Nginx fixes these two at the first map it reads. If it calls them duplicates, another map or
# another of these lines stands before this file: include this file first.
map_hash_max_size {max_size};
map_hash_bucket_size {bucket_size};

map $http_upgrade $ws_connection {{ default upgrade; "" {idle}; }}

# The snippet names this variable, so `nginx -t` refuses one that was made for another mode or prefix.
map "" ${mark} {{ default ""; }}

"""

BY_PATH = r"""# The user that a path belongs to; empty for everything else. Case counts here.
map $uri $ws_user {{
    default "";
    "~^{base}(?<ws_id>[a-z0-9](?:[a-z0-9_-]{{0,61}}[a-z0-9])?)(?:/|\z)" $ws_id;
}}

# What stands behind the user in the request as it was sent (still encoded, with its query); empty if that isn't plain,
# because of dot segments or an encoded prefix. Then the decoded and normalised path is taken and encoded again.
map "$ws_user:$request_uri" $ws_rest {{
    default "";
    "~^[^?]*/(?:[.]|%2[eE]){{1,2}}(?:[/?]|\z)" "";
    "~^(?<ws_owner>[a-z0-9_-]+):{base}\k<ws_owner>(?<ws_tail>/[^#]*)\z" $ws_tail;
}}

"""

BY_HOST = r"""# The user that a host name belongs to; empty for everything else. $host is lower case and has no port.
map $host $ws_user {{
    default "";
    "~^(?<ws_id>[a-z0-9](?:[a-z0-9_-]{{0,61}}[a-z0-9])?){suffix}\z" $ws_id;
}}

"""

UPSTREAM = """map "u:$ws_user" $ws_upstream {
    default "";
"""

ASKED = r"""# Who says where a user is, and what they said. Their words are checked: they become part of a URL.
upstream wsctl_endpoint {
    server @endpoint@;
    keepalive 32;
}
proxy_cache_path /var/lib/nginx/wsctl-routes keys_zone=wsctl_routes:32m max_size=1g inactive=1h use_temp_path=off;

map $ws_answer $ws_upstream {
    default "";
    "~^(?<ws_target>(?:[0-9]{1,3}(?:[.][0-9]{1,3}){3}|\[[0-9a-f:.]+\]):[0-9]{1,5})\z" $ws_target;
}
"""

STATE = """
# Who has a workspace that isn't simply running: what the page says instead.
map "u:$ws_user" $ws_state {
    default "";
"""

RETRY = """
# In how many seconds it may be worth to ask again; empty: never.
map $ws_state $ws_retry { default ""; starting 5; stopped 30; failed 60; }
"""

NODE = """
# Whose node serves whom: where they are redirected.
map "u:$ws_user" $ws_node {
    default "";
"""

DYNAMIC = """# Connections to workspaces are kept for the next request; the user's address is chosen at each.
upstream wsctl_dynamic {
    server 0.0.0.1;
    balancer_by_lua_block {
        local at = ngx.var.ws_upstream
        local colon = #at - 1
        while string.byte(at, colon) ~= 58 do colon = colon - 1 end
        local address, port = string.sub(at, 1, colon - 1), tonumber(string.sub(at, colon + 1))
        local done, why = require("ngx.balancer").set_current_peer(address, port)
        if not done then
            ngx.log(ngx.ERR, "wsctl: ", why)
            return ngx.exit(500)
        end
    }
    keepalive 256;
}
"""

ROUTES_BELOW = """
# Read by the snippet's Lua, sorted; comments to Nginx.
# Routes
"""
STATES_BELOW = "# States\n"
"""Behind the routes; the end is `# End`."""
