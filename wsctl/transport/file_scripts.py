"""The shell commands about a user's files: looking, making room, installing, putting aside, as text.

Responsible for: these scripts, their folders, and that each is safe to repeat. Not responsible for: running them and
what their outcome means (`files`), nor for copying (`copy_scripts`). Arguments come in as `$1`…; none of them is ever
read as code.

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
    case $(cat "/proc/$p/comm" 2>/dev/null) in rsync|ssh|tar) echo "$p";; esac
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

# What a move needs of a node, and which tools it has beside that. `SAME` follows.
TOOLS = """[ "$(id -u)" = 0 ] || {
  echo "moving files takes root, or sudo without password; wsctl logs in as $(id -un)" >&2; exit 1; }
find / -maxdepth 0 -printf '' 2>/dev/null && : | sort -z 2>/dev/null || { echo "GNU find and sort are missing" >&2
  exit 1; }
for tool in rsync ssh ssh-keygen awk getfattr b2sum; do ! command -v $tool >/dev/null || printf '%s ' $tool; done
case $(tar --version 2>/dev/null) in *GNU*) printf 'tar ';; esac
"""

# Says what the user's folder is, behind the tools, if they were asked for: the same answer from two nodes means one
# folder.
SAME = "echo; stat -c '%i %w %z' -- \"$home\" 2>/dev/null || :"

PREPARE = """fence "$in/"; umask 022; [ -d "$1" ] || mkdir -p -- "$1"
umask 077; [ -d "$1/.wsctl-incoming" ] && [ -d "$kept" ] || mkdir -p -- "$1/.wsctl-incoming" "$kept"
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

# Bytes and number of files, number of what isn't copied, and the names of some of that.
_MEASURE = """measure() {
  found=$(find "$home" -printf '%y %s\\n' | awk '$1 == "f" {n++; s += $2} $1 !~ /^[fdl]$/ {o++}
    END {printf "%d %d %d", s, n, o}'); echo "$found"
  case $found in *' 0') ;; *) find "$home" ! -type f ! -type d ! -type l -printf '%P\\0' | head -z -n 20;; esac
}
"""

SIZE = _MEASURE + '[ ! -d "$home" ] || measure'

KEEP = (
    _MEASURE
    + """fence "$3/"; rm -rf -- "$3" "$mark"; umask 077; [ -d "$kept" ] || mkdir -p -- "$kept"
there "$kept/$4" || ! there "$home" || { measure; mv -T -- "$home" "$kept/$4"; }"""
)

DROP = 'rm -rf -- "$kept/$4"'

# What is in the folder $4, in an order that is the same everywhere; two that are equal say the same. $5 is a number by
# which a sample of files is chosen whose content is read, or `full`, and $6 what reads it. $7: `attributes` if they are
# to be read. $8: `list` to see all of it. The names of files with several names follow, by inode: which are one file
# finds the reader.
MANIFEST = """t=$(mktemp -d); trap 'rm -rf -- "$t"' EXIT; cd -- "$t"; : > attributes > linked > files; cd -- "$4"
find . -type d -printf '%p|d|%m|%U|%G|%T@\\0' -fprint0 "$t/all" \\
  -o -type f -printf '%p|f|%m|%U|%G|%s|%T@\\0' -fprint0 "$t/all" -fprint0 "$t/files" \\
    \\( -links 1 -o -fprintf "$t/linked" '%i %p\\0' \\) \\
  -o -type l -printf '%p|l|%U|%G|%T@|%l\\0' -fprint0 "$t/all" | sort -z > "$t/list"
sort -z -o "$t/files" "$t/files"
{ if [ "$5" = full ]; then cat "$t/files"
else step=$(($(tr -cd '\\0' < "$t/files" | wc -c) / 100 + 1)); sed -z -n "$(($5 % step + 1))~${step}p" "$t/files"; fi
} | xargs -0 -r "$6" -- > "$t/content"
[ "$7" != attributes ] || sort -z "$t/all" | xargs -0 -r getfattr -h -d -m '^user[.]|^system[.]posix_acl' -e hex \\
  --absolute-names -- > "$t/attributes" 2>/dev/null || :
cd -- "$t"
if [ "$8" = list ]; then cat list; tr '\\n' '\\0' < content; tr '\\n' '\\0' < attributes
else cat list content attributes | "$6"; cat linked; fi"""
