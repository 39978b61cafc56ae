# For scripts: a machine for as long as they run, as machine.rs boots one for a test. `boot ROOT [OPTION...]` boots it and
# `inside COMMAND...` runs something in it; `$machine/root` has its files. `trap shut_down EXIT` comes before.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
machine=
machine_process=
leader=

only_child() { tr -d ' ' <"/proc/$1/task/$1/children"; }

boot() { # root, options of systemd-nspawn in place of a network of its own...
    local root=$1 cgroups=/sys/fs/cgroup/unified first
    shift
    [ -d $cgroups ] || cgroups=/sys/fs/cgroup
    machine_cgroup=$cgroups/trunkline-script-$$
    machine_scratch=$(mktemp -d)
    setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc \
        sh "$here/boot" "$root" "" "$machine_scratch" "$machine_cgroup" "$@" >"$machine_scratch.log" 2>&1 &
    machine_process=$!
    # Minutes, where its processor is an emulator's.
    timeout 300 sh -c 'until grep -qs "Reached target.*multi-user.target" "$1"; do sleep 0.1; done' _ "$machine_scratch.log" || {
        tail -n 20 "$machine_scratch.log" >&2
        return 1
    }
    first=$(only_child $machine_process)
    leader=$(only_child "$first")
    machine=/proc/$leader
    grep -q localhost "$machine/root/etc/hosts" 2>/dev/null || printf '127.0.0.1 localhost\n' >"$machine/root/etc/hosts"
}

inside() { nsenter --all --target "$leader" -- env PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"; }

shut_down() {
    [ -n "$machine_process" ] || return 0
    [ -z "$leader" ] || kill -KILL "$leader" 2>/dev/null || :
    kill "$machine_process" 2>/dev/null || :
    wait "$machine_process" 2>/dev/null || :
    # It cannot go before its processes have, a moment later.
    local try
    for try in 1 2 3 4 5 6 7 8 9 10; do
        # Beside it where there are both versions: systemd-nspawn makes one of the first of the same name.
        find "$machine_cgroup" "/sys/fs/cgroup/systemd/${machine_cgroup##*/}" -depth -type d -exec rmdir {} \; 2>/dev/null || :
        [ -d "$machine_cgroup" ] || break
        sleep 0.2
    done
    rmdir "$machine_scratch" 2>/dev/null || :
    rm -f "$machine_scratch.log"
}
