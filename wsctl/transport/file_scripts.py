"""The shell commands by which files are moved: what runs on a node, as text.

Responsible for: these scripts, their folders, and that each is safe to repeat. Not responsible for: running them and
what their outcome means (`files`). Arguments come in as `$1`…; none of them is ever read as code.

`$1` is the folder of all workspaces, `$2` the user, `$3` the folder of the move's key. A move copies into
`.wsctl-incoming/USER` and notes that folder's inode beside it: so what was installed from there is told from files that
somebody else put in the user's place.
"""

from __future__ import annotations

FENCE = """PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin; export PATH; LC_ALL=C; export LC_ALL; set -e
in=$1/.wsctl-incoming/$2; kept=$1/.wsctl-kept; mark=$in.inode; home=$1/$2
copiers() {
  for f in $(grep -l -a -F -e "$1" /proc/[0-9]*/cmdline 2>/dev/null); do
    p=${f#/proc/}; p=${p%/cmdline}
    case $(cat "/proc/$p/comm" 2>/dev/null) in rsync|ssh) echo "$p";; esac
  done
}
fence() {
  for try in 1 2 3 4 5 6 7 8 9 10; do
    left=$(copiers "$1"); [ -n "$left" ] || return 0
    kill -9 $left 2>/dev/null || :; sleep 0.1
  done
  echo "copying that was cut off goes on there: $left" >&2; exit 1
}
there() { [ -e "$1" ] || [ -L "$1" ]; }
ours() { [ ! -e "$in" ] && [ -e "$mark" ] && [ "$(stat -c %i -- "$home" 2>/dev/null)" = "$(cat "$mark")" ]; }
"""

CHECK = """[ "$(id -u)" = 0 ] || { echo "moving files needs root there; wsctl logs in as $(id -un)" >&2; exit 1; }
for tool in rsync ssh ssh-keygen awk stat; do
  command -v $tool >/dev/null || { echo "$tool isn't installed there" >&2; exit 1; }
done"""

PREPARE = """fence "$in/"; umask 022; mkdir -p -- "$1"; umask 077; mkdir -p -- "$1/.wsctl-incoming" "$kept"
if there "$home"; then
  if ours; then mv -T -- "$home" "$in"
  else name=$2-found-$(date +%s); mv -T -- "$home" "$kept/$name"; printf %s "$name"; fi
fi
[ -d "$in" ] || mkdir -- "$in"
stat -c %i -- "$in" > "$mark"
"""

INSTALL = """fence "$in/"; sync -f "$in" 2>/dev/null || sync
if there "$home"; then ours && exit 0; echo "$home exists already" >&2; exit 1; fi
mv -T -- "$in" "$home"; sync -f "$1" 2>/dev/null || sync"""

DISCARD = """fence "$in/"
if [ "$4" = installed ] && ours; then mv -T -- "$home" "$in"; fi
rm -rf -- "$in" "$mark\""""

KEEP = """fence "$3/"; rm -rf -- "$3"; umask 077; mkdir -p -- "$kept"
there "$kept/$4" || ! there "$home" || mv -T -- "$home" "$kept/$4\""""

DROP = 'rm -rf -- "$kept/$4"'

SIZE = """[ -d "$home" ] || exit 0
find "$home" -xdev -printf '%y %s\\n' | awk '$1 == "f" {n++; s += $2} END {printf "%d %d\\n", s, n}'
find "$home" -xdev ! -type f ! -type d ! -type l -printf '%P\\n' | head -n 20"""

# The key is made on the source and never leaves it. rsync itself says what it will have the target run: `$3/ask` stands
# in for ssh. stdin: the target's line for known_hosts. $4 host, $5 port, $6 login, $7 host key algorithms.
KEY = """fence "$3/"; umask 077; rm -rf -- "$3"; mkdir -p -- "$3"
find "${3%/*}" -mindepth 1 -maxdepth 1 -mmin +120 -exec rm -rf {} + 2>/dev/null || :
cat > "$3/known_hosts"
ssh-keygen -q -t ed25519 -N '' -C wsctl-move -f "$3/key" >&2
cat > "$3/ssh" <<END
exec ssh -F none -i "$3/key" -l "$6" -p $5 -o HostName="$4" -o HostKeyAlias=wsctl-target -o HostKeyAlgorithms=$7 \\
  -o UserKnownHostsFile="$3/known_hosts" -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes \\
  -o IdentitiesOnly=yes -o IdentityAgent=none -o PreferredAuthentications=publickey -o BatchMode=yes \\
  -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=4 -o ForwardAgent=no -o ForwardX11=no \\
  -o ControlPath=none "\\$@"
END
echo 'shift; printf "%s\\n" "$*" >> "$MOVE_ASKED"; exit 1' > "$3/ask"
MOVE_ASKED=$3/asked; export MOVE_ASKED; unset RSYNC_PROTECT_ARGS RSYNC_RSH
key=$3; dir=$home; to=wsctl-target:$in/; shift 7
while [ $# -gt 0 ]; do
  printf . | eval "rsync $1 -e 'sh $key/ask' -- \\"\\$dir/\\" \\"\\$to\\"" >/dev/null 2>&1 || :; shift
done
address=$(getent ahosts "$host" 2>/dev/null | awk 'NR == 1 {print $1}')
ip -o route get "${address:-$host}" 2>/dev/null | sed -n 's/.* src \\([^ ]*\\).*/\\1/p' > "$key/from" || :
printf '%s\\n' "$(cat "$key/from")"; cat "$key/key.pub" "$key/asked"
"""

# stdin: the new line, or nothing. $3: whose lines go in any case; those whose time is over go too.
GRANT = """umask 077; mkdir -p ~/.ssh; f=~/.ssh/authorized_keys; [ -e "$f" ] || : > "$f"
exec 9>> ~/.ssh/.wsctl-lock; flock -w 30 9 2>/dev/null || :
now=$(date +%s); until=$((now + 3600)); expiry=$(date -d "@$until" +%Y%m%d%H%M%S)
cp -p -- "$f" "$f.wsctl-new"
awk -v mine="$3" -v now="$now" '{ if (match($0, /wsctl-move:[^ :]*:[^ :]*:[0-9]+$/)) {
  split(substr($0, RSTART), part, ":"); if (part[2] ":" part[3] == mine || part[4] + 0 < now) next } print }' \\
  "$f" > "$f.wsctl-new"
sed -e "s/@EXPIRY@/$expiry/" -e "s/@UNTIL@/$until/" >> "$f.wsctl-new"
mv -fT -- "$f.wsctl-new" "$f\""""

# A pass lives as long as the connection: when stdin ends, so does rsync. $1 key folder, $2 what follows the arguments.
RUN = """LC_ALL=C; export LC_ALL; unset RSYNC_PROTECT_ARGS RSYNC_RSH; exec 3<&0
"$@" </dev/null 3<&- & p=$!
(read -r line <&3; kill $p) >/dev/null 2>&1 & w=$!
wait $p; c=$?; kill $w 2>/dev/null; exit $c"""

VERIFY = """LC_ALL=C; export LC_ALL; unset RSYNC_PROTECT_ARGS RSYNC_RSH; dir=$1; to=$2; key=$3; mode=$4; shift 4
rsync "$@" -e "sh $key/ssh" -- "$dir/" "$to" || exit $?
[ "$mode" = sample ] || exit 0
find "$dir" -xdev -type f -printf '%P\\0' | shuf -z -n 100 |
  rsync "$@" --checksum --files-from=- --from0 -e "sh $key/ssh" -- "$dir/" "$to\""""
