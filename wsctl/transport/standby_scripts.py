"""The shell commands of standby copies: what runs on a node, as text.

Responsible for: these scripts, and that each is safe to repeat and to be cut off anywhere. Not responsible for: running
them (`standby_files`), nor for what they have in common with a move's (`file_scripts`, whose `FENCE` precedes each).

`$1` is a root, `$2` the user: the root of workspaces on the source, and in `PROMOTE` and `KEEP_LEFT`; the folder of
standby copies in `SEED`, `COMPLETE` and `DROP`. There `$1/$2` is the complete copy, `.wsctl-incoming/$2` the one being
made, and `.old/$2` the one before, which exists only while one takes the place of the other: found without a complete
copy, it is that.
"""

from __future__ import annotations

FOLDER = ".wsctl-standby"

_MEND = """old=$1/.old/$2; seed=$1/.seed/$2
exec 9>> "$1/.old/$2.lock"; flock -w 60 9 2>/dev/null || :
mend() { if there "$home"; then rm -rf -- "$old"; elif there "$old"; then mv -T -- "$old" "$home"; fi; }
"""

MARK = """[ -d "$home" ] || { echo "there are no files of $2" >&2; exit 1; }
printf '%s %s' "$(stat -c %i -- "$home")" "$(date +%s%6N)\""""

# Hard links: rsync replaces a file that differs by a new one, so the complete copy keeps its content.
SEED = (
    """fence "$in/"; umask 022; mkdir -p -- "${1%/*}"; umask 077; mkdir -p -- "$1/.wsctl-incoming" "$1/.old" "$1/.seed"
"""
    + _MEND
    + """mend
if ! [ -d "$in" ]; then
  rm -rf -- "$seed"
  if [ -d "$home" ]; then cp -al -- "$home" "$seed"; else mkdir -- "$seed"; fi
  mv -T -- "$seed" "$in"
fi"""
)

COMPLETE = (
    _MEND
    + """fence "$in/"
if [ -d "$in" ]; then
  sync -f "$in" 2>/dev/null || sync
  mend; if there "$home"; then mv -T -- "$home" "$old"; fi
  mv -T -- "$in" "$home"; sync -f "$1" 2>/dev/null || sync
fi
mend; [ -d "$home" ] || { echo "there is no copy of $2" >&2; exit 1; }
find "$home" -xdev -type f -printf '%s\\n' | awk '{s += $1} END {printf "%d", s}'"""
)

# The folder's inode is noted before it gets its new place: so a repetition knows it again.
PROMOTE = """all=$1; set -- "$1/.wsctl-standby" "$2"; live=$all/$2; from=$1/$2; home=$from; beside=$1/.wsctl-incoming/$2
fence "$beside/"; umask 077; mkdir -p -- "$1/.promoted" "$1/.old" "$kept"
""" + (
    _MEND
    + """mend
if [ -d "$from" ]; then
  stat -c %i -- "$from" > "$1/.promoted/$2"
  if there "$live"; then name=$2-found-$(date +%s); mv -T -- "$live" "$kept/$name"; printf %s "$name"; fi
  rm -f -- "$mark"; mv -T -- "$from" "$live"; sync -f "$all" 2>/dev/null || sync
elif [ "$(stat -c %i -- "$live" 2>/dev/null)" != "$(cat "$1/.promoted/$2" 2>/dev/null || echo none)" ]; then
  echo "there is no standby copy of $2" >&2; exit 1
fi
rm -rf -- "$beside" "$seed\""""
)

DROP = (
    """[ -d "$1/.old" ] || exit 0
"""
    + _MEND
    + """fence "$in/"; rm -rf -- "$in" "$mark" "$seed" "$old" "$home" "$1/.promoted/$2" "$old.lock\""""
)

# $4 name, $5 seconds since 1970 with their fraction: by the time of change, which no program sets back.
KEEP_LEFT = """umask 077; mkdir -p -- "$kept"
there "$kept/$4" || ! there "$home" || mv -T -- "$home" "$kept/$4"
[ -d "$kept/$4" ] || { echo 0 0; exit 0; }
find "$kept/$4" -xdev ! -type d -newerct "@$5" -printf '%s\\n' | awk '{n++; s += $1} END {printf "%d %d\\n", n, s}'"""
