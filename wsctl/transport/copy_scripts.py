"""The shell commands by which files are copied from node to node: what runs on them, as text.

Responsible for: these scripts; the key of a move, rsync directly or through a pair of pipes, tar without rsync. Not
responsible for: running them (`copying`, `movekeys`), nor for what is done about files on one node
(`file_scripts`, whose `FENCE` stands before each of these).
"""

from __future__ import annotations

# Whether ssh from here gets as far as a login, and finds the host key that wsctl knows. stdin: the line for
# known_hosts. $4 host, $5 port, $6 login, $7 host key algorithms. Nothing is tried that could let anybody in.
PROBE = """t=$(mktemp -d); trap 'rm -rf -- "$t"' EXIT; cat > "$t/known_hosts"
ssh -F none -l "$6" -p "$5" -o HostName="$4" -o HostKeyAlias=wsctl-target -o HostKeyAlgorithms="$7" \\
  -o UserKnownHostsFile="$t/known_hosts" -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes \\
  -o PreferredAuthentications=none -o IdentityAgent=none -o BatchMode=yes -o ConnectTimeout=5 \\
  -o ControlPath=none -o LogLevel=ERROR wsctl-target true </dev/null >&2"""

# The key is made on the source and never leaves it. rsync itself says what it will have the target run: `$3/ask` stands
# in for ssh. stdin: the target's line for known_hosts. $4 host, $5 port, $6 login, $7 host key algorithms, $8 that of
# rsync for each of the ways in which it will be called, after what an earlier call has said about this pair: $8 the
# ciphers and $9 the address from which the target is reached. Said are these two, the public key, and what rsync asked.
# The socket `mux` has a short path: the folder's is long. Where the processor has instructions for AES it goes before
# ssh's own favourite: a gigabyte took 1.4 s in place of 2.2 s.
KEY = """fence "$3/"; umask 077; rm -rf -- "$3"; mkdir -p -- "$3"
find "${3%/*}" -mindepth 1 -maxdepth 1 -mmin +120 -exec rm -rf {} + 2>/dev/null || :
cat > "$3/known_hosts"
ssh-keygen -q -t ed25519 -N '' -C wsctl-move -f "$3/key" >&2
key=$3; dir=$home; host=$4; to=wsctl-target:$in/; ciphers=$8; from=$9
if [ -z "$ciphers" ] && grep -qw aes /proc/cpuinfo; then
  ciphers=$({ ssh -Q cipher | grep -e -gcm@; ssh -Q cipher | grep -e ^chacha20 -e '-ctr$'; } 2>/dev/null | tr '\\n' ,)
  ciphers=${ciphers%,}
fi
cat > "$3/ssh" <<END
cd "$3" || exit 255
exec ssh -F none -i "$3/key" -l "$6" -p $5 -o HostName="$4" -o HostKeyAlias=wsctl-target -o HostKeyAlgorithms=$7 \\
  -o UserKnownHostsFile="$3/known_hosts" -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes \\
  -o IdentitiesOnly=yes -o IdentityAgent=none -o PreferredAuthentications=publickey -o BatchMode=yes \\
  -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=4 -o ForwardAgent=no -o ForwardX11=no \\
  -o ControlPath=mux ${ciphers:+-o Ciphers=$ciphers} "\\$@"
END
echo 'shift; printf "%s\\n" "$*" >> "$MOVE_ASKED"; exit 1' > "$3/ask"
MOVE_ASKED=$3/asked; export MOVE_ASKED; unset RSYNC_PROTECT_ARGS RSYNC_RSH
shift 9
while [ $# -gt 0 ]; do
  printf . | eval "rsync $1 -e 'sh $key/ask' -- \\"\\$dir/\\" \\"\\$to\\"" >/dev/null 2>&1 || :; shift
done
if [ -z "$from" ]; then
  address=$(getent ahosts "$host" 2>/dev/null | awk 'NR == 1 {print $1}') || :
  from=$(ip -o route get "${address:-$host}" 2>/dev/null | sed -n 's/.* src \\([^ ]*\\).*/\\1/p') || :
fi
printf '%s\\n' "$ciphers" "$from"; cat "$key/key.pub" "$key/asked"
"""

# Run as the account itself, whose key it is. stdin: the new line, or nothing. $1: whose lines go in any case; those
# whose time is over go too.
GRANT = """set -e; LC_ALL=C; export LC_ALL
f=~/.ssh/authorized_keys; [ -s "$f" ] || [ "$2" = grant ] || exit 0
umask 077; [ -d ~/.ssh ] || mkdir -p ~/.ssh
if [ -L "$f" ]; then f=$(readlink -f -- "$f") || { echo "it is a link that leads nowhere" >&2; exit 1; }; fi
[ -e "$f" ] || : > "$f"
exec 9>> ~/.ssh/.wsctl-lock; flock -w 30 9 2>/dev/null || :
now=$(date +%s)
cp -p -- "$f" "$f.wsctl-new"
awk -v mine="$1" -v now="$now" '{ if (match($0, /wsctl-move:[^ :]*:[^ :]*:[0-9]+$/)) {
  split(substr($0, RSTART), part, ":"); if (part[2] ":" part[3] == mine || part[4] + 0 < now) next } print }' \\
  "$f" > "$f.wsctl-new"
if [ "$2" = grant ]; then
  until=$((now + 3600)); expiry=$(date -d "@$until" +%Y%m%d%H%M%S)
  sed -e "s/@EXPIRY@/$expiry/" -e "s/@UNTIL@/$until/" >> "$f.wsctl-new"
fi
mv -fT -- "$f.wsctl-new" "$f\""""

# The patterns that leave out what isn't a file, a folder or a link, for rsync's stdin. In a pattern without wildcards a
# backslash is itself.
_ODD = """find "$home/" ! -type f ! -type d ! -type l -printf '/%P\\0' | sed -z '/[][*?]/ s/[][*?\\]/\\\\&/g'"""

# `--sparse` is left out where nothing has holes: rsync would write a kilobyte at a time then, and a gigabyte of files
# without holes took 3 s more of both processors. rsync's words follow.
_THIN = """rsync=$1; shift
case " $* " in *" --sparse "*)
  [ -n "$(find "$home/" -type f -size +16 -printf '%S\\n' 2>/dev/null | awk '$1 < 1 {print "holes"; exit}')" ] || {
    for word; do shift; [ "$word" = --sparse ] || set -- "$@" "$word"; done; };;
esac
set -- "$rsync" "$@"
"""

# A pass lives as long as the connection: when stdin ends, so does rsync. All passes share one connection to the target,
# which ends by itself. rsync tells of its progress after each file: only what is another percentage is passed on, for
# hearing of 20,000 files took us 3 s of a move of 15 s. `-W` is for mawk, which waits for more without it; the others
# say that they don't know it. The words of rsync follow.
RUN = (
    """unset RSYNC_PROTECT_ARGS RSYNC_RSH; exec 3<&0; key=$3; shift 3; set +e
"""
    + _THIN
    + """[ -S "$key/mux" ] ||
  sh "$key/ssh" -M -N -f -o ControlPersist=60 wsctl-target </dev/null >/dev/null 2>&1 3<&-
rm -f -- "$key/said"; mkfifo -- "$key/said" || exit 1
{ stdbuf -oL tr '\\r' '\\n' || tr '\\r' '\\n'; } < "$key/said" 2>/dev/null 3<&- |
  awk -W interactive '/^ *[0-9]+ +[0-9]+%/ { if ($2 == was) next; was = $2 } { print; fflush() }' \\
    2>/dev/null 3<&- & f=$!
"""
    + _ODD
    + """ 3<&- | "$@" 3<&- > "$key/said" & p=$!
(read -r line <&3; kill $p) >/dev/null 2>&1 & w=$!
wait $p; c=$?; wait $f; kill $w 2>/dev/null; exit $c"""
)

# rsync whose other end is reached through our own stdin and stdout: first a line with what the other end is to run. $4
# is where to, and the other words of rsync follow. What it says comes on stderr. Its words name $3, for the fence. Like
# ssh, what stands in for it ends when the other end does: rsync waits for that.
WIRE = (
    """unset RSYNC_PROTECT_ARGS RSYNC_RSH; exec 3<&0 4>&1 1>&2; wire=$3/wire to=$4; shift 4; set -- rsync "$@"
"""
    + _THIN
    + _ODD
    + """ 3<&- 4>&- |
"$@" -e "sh -c 'shift; echo \\"\\$*\\" >&4; exec 5<&0; cat <&5 >&4 3<&- & cat <&3 4>&-; kill \\$!' $wire" \\
  -- "$home/" "$to\""""
)

SERVE = 'shift 3; exec "$@"'

# The whole folder as one stream; $4 is an option for tar, or nothing.
PACK = """cd -- "$home/"; find . \\( -type d -o -type f -o -type l \\) -print0 |
tar --create --file=- --null --no-recursion --files-from=- --format=posix --pax-option=delete=atime,delete=ctime \\
  --numeric-owner --sparse --acls --xattrs --xattrs-include='*' $4"""

UNPACK = """find "$in/" -mindepth 1 -delete
tar --extract --directory="$in/" --file=- --preserve-permissions --same-owner --numeric-owner --acls --xattrs \\
  --xattrs-include='*' --delay-directory-restore $4"""

# $4: wait, for half a minute at most; or nothing.
SYNC = """setsid sh -c 'sync -f "$0" || sync' "$in" >/dev/null 2>&1 </dev/null & p=$!
[ -n "$4" ] || exit 0
n=0; while [ $n -lt 600 ] && kill -0 $p 2>/dev/null; do sleep 0.05; n=$((n + 1)); done"""
