#!/bin/sh
# What happens inside a node, in the node's own namespaces. Run by lab/node.py, never by hand.
#
#   node.sh boot     becomes the node's first process: file system, network, daemons
#   node.sh sshd     starts the SSH daemon        (also after `stop`)
#   node.sh engine   starts the Docker Engine
#
# Environment: NODE its name, FOLDER its folder on the host, LAB_ROOT the folder of all labs, ADDRESS and ADDRESS6, CGROUP
# its folder in the tracking hierarchy. Inside the node, FOLDER is seen as /run/lab.
set -eu

# The node's root is the host's, with a layer of its own over it: it may write anywhere, the host sees nothing, and
# what it wrote is still there after a power cut. The layer's files are on the host's disk, in FOLDER/root.
file_system() {
    root=$FOLDER/root/merged
    mkdir -p "$FOLDER/root/upper" "$FOLDER/root/work" "$root"
    mount --make-rprivate /
    mount -t overlay overlay -o "lowerdir=/,upperdir=$FOLDER/root/upper,workdir=$FOLDER/root/work" "$root"
    for top in /usr /var /opt; do       # the layer doesn't see what is mounted below the host's root
        if mountpoint -q "$top"; then mount --rbind "$top" "$root$top"; fi
    done
    mount --rbind /dev "$root/dev"
    mount --rbind /sys "$root/sys"
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    mkdir -p "$root/run/lab" "$root/run/old" "$root/run/sshd" "$root/run/lock" "$root/var/lib/docker" "$root/srv/workspaces"
    mount --bind "$FOLDER" "$root/run/lab"
    disks "$root"
    mkdir -p "$root$LAB_ROOT"
    mount -t tmpfs -o ro,mode=755 tmpfs "$root$LAB_ROOT"    # other nodes' files are none of this node's business
    cd "$root"
    pivot_root . run/old
    umount -l /run/old
    rmdir /run/old
}

# The engine's and the workspaces' files are on real file systems, not on the layer. A small disk is one file
# system for both, as on many a server.
disks() {
    if [ -f "$FOLDER/disk.img" ]; then
        mkdir -p "$1/run/disk"
        mount -o loop "$FOLDER/disk.img" "$1/run/disk"
        data=$1/run/disk
    else
        data=$FOLDER/data
    fi
    mkdir -p "$data/docker" "$data/workspaces"
    mount --bind "$data/docker" "$1/var/lib/docker"
    mount --bind "$data/workspaces" "$1/srv/workspaces"
}

# At the first boot, the node becomes somebody: what the host's disk says about the host isn't true here. Root logs in
# with a key only; `plain` may log in too, but isn't in the docker group.
identity() {
    if grep -q '^plain:' /etc/passwd; then return; fi
    rm -f /etc/docker/key.json /etc/docker/daemon.json
    tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
    echo "$NODE" >/etc/hostname
    sed -i 's/^root:[^:]*:/root:*:/' /etc/shadow
    rm -rf /root/.ssh /root/.docker /root/.bashrc /root/.profile    # bash runs them for every command that comes by SSH
    mkdir -p /home/plain
    chown 1777:1777 /home/plain
    echo 'plain:*:19000:0:99999:7:::' >>/etc/shadow
    echo 'plain:x:1777:' >>/etc/group
    echo 'plain:x:1777:1777:may not use Docker:/home/plain:/bin/sh' >>/etc/passwd
}

network() {
    tries=0
    until ip link show eth0 >/dev/null 2>&1; do             # plugged in by the lab; if the lab died meanwhile, give up
        tries=$((tries + 1))
        [ "$tries" -lt 1000 ] || exit 1
        sleep 0.01
    done
    printf '%s\n' 'link set dev lo up' "address add $ADDRESS/24 dev eth0" 'link set dev eth0 up' | ip -batch -
    ip address add "$ADDRESS6/64" dev eth0 nodad || true    # a machine without IPv6 is fine
}

# daemon NAME PROGRAM…: in the cgroup and the log file of that name, in its own session.
daemon() {
    (
        echo 0 >"$CGROUP/$1/cgroup.procs"
        log=/run/lab/log/$1.log
        shift
        # Not `&`: the shell would make it ignore SIGINT, and with it every program started over SSH.
        exec env -i PATH="$PATH" HOME=/root LANG=C.UTF-8 setsid --fork "$@" </dev/null >>"$log" 2>&1
    )
}

sshd() { daemon sshd /usr/sbin/sshd -D -e -f /run/lab/sshd_config; }

engine() {
    rm -f /run/docker.pid
    daemon engine dockerd --config-file /run/lab/daemon.json
}

case $1 in
boot)
    file_system
    hostname "$NODE"
    network
    identity
    sshd
    engine
    # Orphans are the first process's children. It ignores their ends, hence the kernel reaps them; dash can't
    # do that, and dockerd takes a dead containerd that nobody has reaped for a living one.
    exec perl -e '$SIG{CHLD} = "IGNORE"; $0 = "init of $ENV{NODE}"; sleep 86400 while 1' </dev/null
    ;;
sshd) sshd ;;
engine) engine ;;
esac
