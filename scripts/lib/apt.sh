# shellcheck shell=bash
# Debian's packages, installed without starting the servers in them. Needs common.sh.

can_install() { ((EUID == 0)) && command -v apt-get >/dev/null; }

# Quiet: what apt-get says goes to $local_dir/apt.log. A subshell, so that its lock and its trap end with it.
apt_install() ( # PACKAGE...
    mkdir -p "$local_dir"
    # One at a time on this machine: the end of one would take away the policy of another.
    exec 7>/run/earmark-apt.lock
    flock 7
    forbid_default_servers
    { apt_knows "$@" && apt_get install "$@"; } || { apt_get update && apt_get install "$@"; }
)

apt_knows() { # PACKAGE...
    local package
    for package in "$@"; do
        apt-cache show "$package" >/dev/null 2>&1 || return 1
    done
}

apt_get() { # install|update PACKAGE...
    local options=(-y -o DPkg::Lock::Timeout=300)
    [[ $1 != install ]] || options+=(--no-install-recommends)
    DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" "$@" </dev/null >>"$local_dir/apt.log" 2>&1 7>&-
}

# A policy-rc.d keeps the packages from starting (or restarting) servers of the whole machine. One that is there already
# stays as it is.
policy=/usr/sbin/policy-rc.d
policy_mark='# temporary: keeps scripts/services from starting servers'
forbid_default_servers() {
    [[ -e $policy ]] && ! grep -qsxF "$policy_mark" "$policy" && return
    trap allow_default_servers EXIT
    printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" >"$policy"
    chmod 755 "$policy"
}
allow_default_servers() {
    if grep -qsxF "$policy_mark" "$policy"; then rm -f "$policy"; fi
}
