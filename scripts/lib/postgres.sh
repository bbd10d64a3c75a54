# shellcheck shell=bash
# Postgres from the programs of this machine. For scripts/services.

# Settings of the machine's own server must not reach ours.
unset "${!PG@}"
PG_BIN='' PG_NAME='' PG_HOME='' PG_DATA=''

find_postgres() {
    local dir version='' dirs
    [[ -f $PG_DATA/PG_VERSION ]] && version=$(<"$PG_DATA/PG_VERSION")
    # Existing data needs the version that made it; otherwise the newest.
    mapfile -t dirs < <(printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin | sort -rV)
    dirs=("/usr/lib/postgresql/$version/bin" "/usr/pgsql-$version/bin" "${dirs[@]}"
        "$(pg_config --bindir 2>/dev/null || true)" "$(dirname "$(command -v initdb || echo /)")")
    for dir in "${dirs[@]}"; do
        [[ -x $dir/initdb && -x $dir/pg_ctl && -x $dir/psql ]] && PG_BIN=$dir && return 0
    done
    return 1
}

# Postgres refuses to run as root.
as_pg() {
    if ((EUID == 0)); then
        setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"
    else
        "$@"
    fi
}

# Which server is meant from here on: `postgres`, or `primary` or `standby` of the
# pair. Its data live with the other state, unless the postgres user cannot get
# there (a repository below /root).
locate_postgres() { # NAME
    local fallback=/var/tmp/earmark-$id
    PG_NAME=$1
    [[ $1 == postgres ]] || fallback+=-$1
    PG_HOME=$local_dir/$1
    if ((EUID == 0)) && { [[ -d $fallback/data ]] || cannot_reach "$PG_HOME"; }; then
        PG_HOME=$fallback
    fi
    PG_DATA=$PG_HOME/data
}

# The nearest existing parent decides, as nothing may be created yet.
cannot_reach() {
    local dir=$1
    id -u postgres >/dev/null 2>&1 || return 1
    while [[ ! -d $dir ]]; do dir=$(dirname "$dir"); done
    ! as_pg test -x "$dir"
}

make_postgres_home() {
    mkdir -p "$local_dir/$PG_NAME"
    if ((EUID == 0)); then
        id -u postgres >/dev/null 2>&1 || die "running as root needs a user called postgres"
        mkdir -p "$PG_HOME"
        # /var/tmp is open to all: do not use what somebody else put there.
        [[ ! -L $PG_HOME && $(stat -c %U "$PG_HOME") =~ ^(root|postgres)$ ]] || die "$PG_HOME belongs to somebody else"
        chown postgres: "$PG_HOME"
    fi
    chmod 700 "$PG_HOME"
    [[ $PG_HOME == "$local_dir/$PG_NAME" ]] || printf '%s\n' "$PG_HOME" >"$local_dir/$PG_NAME/location"
}

# Line 1 of postmaster.pid is the pid. It can be left over from a crash, so look
# whether that process is a Postgres on this data.
native_postgres_pid() {
    local pid
    pid=$(head -n 1 "$PG_DATA/postmaster.pid" 2>/dev/null) || return 1
    grep -qsxzF -- "$PG_DATA" "/proc/$pid/cmdline" && echo "$pid"
}

# Line 8 is "ready" once recovery is over, or "standby" once reads are answered.
native_postgres_is_up() {
    native_postgres_pid >/dev/null && [[ $(sed -n 8p "$PG_DATA/postmaster.pid" 2>/dev/null) == @(ready|standby)* ]] &&
        answers "$(port_of "$PG_NAME")"
}

# After a kill -9 of the postmaster its backends live on for a moment.
postgres_orphans() {
    find /proc -maxdepth 2 -name cwd -printf '%h %l\n' 2>/dev/null |
        DATA=$PG_DATA awk '{ pid = substr($1, 7); sub(/^[^ ]* /, "") } $0 == ENVIRON["DATA"] { print pid }'
}
no_postgres_orphans() { [[ -z $(postgres_orphans) ]]; }

clear_postgres_crash() {
    local pid
    until_true 1 no_postgres_orphans || for pid in $(postgres_orphans); do kill -9 "$pid" || true; done
    # The pid in it may belong to another program by now, which Postgres would
    # take for a running server.
    rm -f "$PG_DATA/postmaster.pid"
}

init_postgres() {
    [[ -f $PG_DATA/PG_VERSION ]] && return
    as_pg rm -rf "$PG_DATA.new"
    # Made under another name, so that a half made one is never used.
    as_pg "$PG_BIN/initdb" -D "$PG_DATA.new" -U postgres -A trust -E UTF8 --locale=C \
        </dev/null >"$local_dir/$PG_NAME/initdb.log" 2>&1 ||
        fail_with_log "$PG_NAME" "initdb failed" "$local_dir/$PG_NAME/initdb.log"
    as_pg mv "$PG_DATA.new" "$PG_DATA"
}

postgres_options() { # PORT
    local library
    printf %s "-p $1 -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
    printf %s " -c max_connections=500 -c shared_buffers=256MB -c max_wal_size=4GB"
    library=$("$PG_BIN/pg_config" --pkglibdir 2>/dev/null || true)/pg_stat_statements.so
    [[ ! -f $library ]] || printf %s " -c shared_preload_libraries=pg_stat_statements"
}

native_postgres_start() {
    make_postgres_home
    if ! native_postgres_pid >/dev/null; then
        init_postgres
        clear_postgres_crash
        choose_port "$PG_NAME" 0
        say "$PG_NAME: starting on 127.0.0.1:$(port_of "$PG_NAME") …"
        as_pg "$PG_BIN/pg_ctl" start -s -w -t 120 -D "$PG_DATA" -l "$PG_HOME/postgres.log" \
            -o "$(postgres_options "$(port_of "$PG_NAME")")" </dev/null >/dev/null 2>&1 ||
            fail_with_log "$PG_NAME" "did not start" "$PG_HOME/postgres.log"
    fi
    # The port is not remembered when the state folder was removed under a running server.
    mkdir -p "$local_dir/ports"
    sed -n 4p "$PG_DATA/postmaster.pid" >"$local_dir/ports/$PG_NAME"
    until_true 120 native_postgres_is_up || fail_with_log "$PG_NAME" "is not ready" "$PG_HOME/postgres.log"
    create_database
    native_postgres_pid >"$local_dir/$PG_NAME.pid"
}

create_database() {
    [[ $(in_postgres "select 1 from pg_database where datname = 'earmark'") == 1 ]] ||
        in_postgres 'create database earmark'
}

# in_postgres SQL: what it returns, without decoration.
in_postgres() {
    "$PG_BIN/psql" -XqAt -v ON_ERROR_STOP=1 -c "$1" \
        "postgres://postgres@127.0.0.1:$(port_of "$PG_NAME")/postgres?sslmode=disable"
}

native_postgres_stop() { # [--immediate]
    local how=fast
    [[ ${1:-} != --immediate ]] || how=immediate
    native_postgres_pid >/dev/null || return 0
    find_postgres || die "$PG_NAME runs, but its pg_ctl is gone"
    as_pg "$PG_BIN/pg_ctl" stop -s -w -t 60 -m "$how" -D "$PG_DATA" </dev/null >/dev/null 2>&1 ||
        fail_with_log "$PG_NAME" "did not stop" "$PG_HOME/postgres.log"
    rm -f "$local_dir/$PG_NAME.pid"
    say "$PG_NAME: stopped"
}

native_postgres_url() { echo "postgres://postgres@127.0.0.1:$(port_of "$PG_NAME")/earmark"; }

native_postgres_psql() { "$PG_BIN/psql" "$(native_postgres_url)" "$@"; }

# ---------------------------------------------------------------- a primary and its synchronous standby

# A copy of the primary that follows it. The primary gets its setting afterwards,
# as the copy would bring it along, and wait for itself once it is promoted.
make_standby() {
    local log=$local_dir/standby/basebackup.log
    make_postgres_home
    as_pg "$PG_BIN/pg_basebackup" -D "$PG_DATA" -R -X stream -c fast --no-sync \
        -d "host=127.0.0.1 port=$(port_of primary) user=postgres application_name=standby sslmode=disable" \
        </dev/null >"$log" 2>&1 || fail_with_log standby "cannot be copied from the primary" "$log"
}

standby_confirms() { [[ $(in_postgres "select sync_state from pg_stat_replication") == sync ]]; }

native_pair_start() {
    locate_postgres primary
    native_postgres_start
    locate_postgres standby
    make_standby
    native_postgres_start
    locate_postgres primary
    in_postgres "alter system set synchronous_standby_names = 'standby'"
    in_postgres "select pg_reload_conf()" >/dev/null
    until_true 60 standby_confirms || fail_with_log standby "does not confirm commits" "$PG_HOME/postgres.log"
}

native_pair_purge() {
    local name
    for name in standby primary; do
        locate_postgres "$name"
        native_postgres_stop --immediate
        rm -rf "$PG_HOME" "${local_dir:?}/$name" "$local_dir/ports/$name"
    done
    rm -f "$local_dir/pair.env"
}

native_postgres_promote() {
    as_pg "$PG_BIN/pg_ctl" promote -s -w -t 60 -D "$PG_DATA" </dev/null >/dev/null 2>&1 ||
        fail_with_log standby "was not promoted" "$PG_HOME/postgres.log"
    say "standby: promoted"
}
