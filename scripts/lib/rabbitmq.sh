# shellcheck shell=bash
# RabbitMQ from the programs of this machine: a server alone, or a node of a cluster (cluster.sh). For scripts/services.

# Settings of the machine's own server must not reach ours.
unset "${!RABBITMQ_@}" "${!ERL_@}"
RABBIT_BIN=''
# The server that is meant: the one alone, or rabbitmq-1, rabbitmq-2, rabbitmq-3.
rabbit=rabbitmq

# A server that answers the AMQP greeting has its virtual host ready: RabbitMQ
# opens its listeners in the last step of the boot.
amqp_answers() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$1"
        printf 'AMQP\0\0\11\1' >&3
        IFS= read -r -t 2 -n 1 -u 3 _
    ) 2>/dev/null
}

find_rabbitmq() {
    local dir dirs
    command -v erl >/dev/null || return 1
    mapfile -t dirs < <(printf '%s\n' /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin | sort -rV)
    dirs+=(/usr/lib/rabbitmq/bin "$(dirname "$(command -v rabbitmq-server || echo /)")")
    for dir in "${dirs[@]}"; do
        # The one in /usr/sbin is a wrapper that insists on the rabbitmq user.
        [[ $dir != */usr/sbin && -x $dir/rabbitmq-server ]] && RABBIT_BIN=$dir && return 0
    done
    return 1
}

# The name of a server's node, before the @.
node_name() { echo "${1/#rabbitmq/earmark_$id}"; } # SERVER

# Every process of a server carries this in its environment, also the epmd that
# Erlang starts by itself.
rabbitmq_mark() { echo "EARMARK_RABBITMQ=$(node_name "$rabbit")"; }

is_rabbitmq() { grep -qsxzF "$(rabbitmq_mark)" "/proc/$1/environ"; }
process_is_gone() { ! is_rabbitmq "$1"; }

native_rabbitmq_pid() {
    local pid
    pid=$(cat "$local_dir/$rabbit.pid" 2>/dev/null) || return 1
    is_rabbitmq "$pid" && echo "$pid"
}
rabbitmq_is_gone() { ! native_rabbitmq_pid >/dev/null; }

native_rabbitmq_is_up() { native_rabbitmq_pid >/dev/null && answers "$(port_of "$rabbit")"; }

# signal_marked SIGNAL MARK sends a signal to all processes that carry the mark.
signal_marked() {
    local file files
    mapfile -t files < <(grep -lsxzF "$2" /proc/[0-9]*/environ)
    for file in "${files[@]}"; do
        kill "-$1" "${file//[!0-9]/}" 2>/dev/null || true
    done
}

# What is left when the server itself is gone: epmd, helpers of a killed node, or
# a whole node whose state folder was removed.
kill_rabbitmq_rest() { signal_marked KILL "$(rabbitmq_mark)"; }

write_rabbitmq_config() { # DIR
    mkdir -p "$1/home" "$1/conf.d"
    cat >"$1/rabbitmq.conf" <<CONFIG
listeners.tcp.1 = 127.0.0.1:$(port_of "$rabbit")
disk_free_limit.absolute = 100MB
vm_memory_high_watermark.absolute = 1GB
log.file.level = info
CONFIG
    echo '[].' >"$1/enabled_plugins"
    : >"$1/rabbitmq-env.conf"
}

choose_rabbitmq_ports() {
    local node=${rabbit#rabbitmq} slot
    node=${node#-}
    slot=$((4 * ${node:-0} + 1))
    choose_port "$rabbit" "$slot"
    choose_port "$rabbit-dist" $((slot + 1))
    choose_port "$rabbit-epmd" $((slot + 2))
}

# Everything that would otherwise come from /etc/rabbitmq or go to /var, and the
# cookie in the home folder, is in DIR, and so is what Mnesia leaves where it runs. All listeners, epmd's too, are on loopback.
launch_rabbitmq() { # DIR
    # `detached` makes the start script become the node instead of waiting for it.
    env --chdir="$1" "$(rabbitmq_mark)" HOME="$1/home" detached=true \
        RABBITMQ_NODENAME="$(node_name "$rabbit")@localhost" \
        RABBITMQ_NODE_PORT="$(port_of "$rabbit")" \
        RABBITMQ_DIST_PORT="$(port_of "$rabbit-dist")" \
        RABBITMQ_CONF_ENV_FILE="$1/rabbitmq-env.conf" \
        RABBITMQ_CONFIG_FILE="$1/rabbitmq.conf" \
        RABBITMQ_CONFIG_FILES="$1/conf.d" \
        RABBITMQ_ADVANCED_CONFIG_FILE="$1/advanced.config" \
        RABBITMQ_GENERATED_CONFIG_DIR="$1/generated" \
        RABBITMQ_ENABLED_PLUGINS_FILE="$1/enabled_plugins" \
        RABBITMQ_MNESIA_BASE="$1/data" \
        RABBITMQ_LOG_BASE="$1" \
        RABBITMQ_LOGS="$1/rabbitmq.log" \
        RABBITMQ_PID_FILE="$local_dir/$rabbit.pid" \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none' \
        ERL_EPMD_ADDRESS=127.0.0.1 \
        ERL_EPMD_PORT="$(port_of "$rabbit-epmd")" \
        ERL_CRASH_DUMP="$1/erl_crash.dump" \
        setsid "$RABBIT_BIN/rabbitmq-server" </dev/null >"$1/startup.log" 2>&1 &
}

native_rabbitmq_start() {
    local dir=$local_dir/$rabbit launched
    if rabbitmq_is_gone; then
        kill_rabbitmq_rest
        choose_rabbitmq_ports
        say "$rabbit: starting on 127.0.0.1:$(port_of "$rabbit") …"
        rm -f "$local_dir/$rabbit.pid"
        write_rabbitmq_config "$dir"
        [[ $rabbit == rabbitmq ]] || prepare_node "$dir"
        launch_rabbitmq "$dir"
        launched=$!
    else
        launched=$(native_rabbitmq_pid)
    fi
    until_true 120 rabbitmq_settled "$launched" || true
    if rabbitmq_is_gone || ! amqp_answers "$(port_of "$rabbit")"; then
        fail_with_log rabbitmq "did not start" "$dir/startup.log" "$dir/rabbitmq.log"
    fi
    enable_features "$dir/data"
}

# On a busy machine, RabbitMQ 3.10 now and then makes its data folder without any feature flag, and then refuses quorum queues.
enable_features() { # DATA
    local flags
    flags=$(cat "$1/"*-feature_flags 2>/dev/null) || return 0
    [[ ${flags//[[:space:]]/} != '[].' ]] || native_rabbitmqctl enable_feature_flag all
}
rabbitmq_settled() { amqp_answers "$(port_of "$rabbit")" || ! kill -0 "$1" 2>/dev/null; }

native_rabbitmq_stop() { # [--immediate]
    local pid
    if pid=$(native_rabbitmq_pid); then
        # RabbitMQ takes SIGTERM as "shut down cleanly", without the seconds that
        # rabbitmqctl needs to start. It removes its pid file first of all.
        if [[ ${1:-} != --immediate ]]; then
            kill -TERM "$pid" 2>/dev/null || true
            until_true 30 process_is_gone "$pid" || say "$rabbit: still there after 30 s, killing it"
        fi
        kill -9 "$pid" 2>/dev/null || true
        until_true 10 process_is_gone "$pid" || die "$rabbit: process $pid does not end"
        say "$rabbit: stopped"
    fi
    kill_rabbitmq_rest
    rm -f "$local_dir/$rabbit.pid"
}

native_rabbitmqctl() {
    local dir=$local_dir/$rabbit
    env HOME="$dir/home" ERL_EPMD_PORT="$(port_of "$rabbit-epmd")" RABBITMQ_CONF_ENV_FILE="$dir/rabbitmq-env.conf" \
        "$RABBIT_BIN/rabbitmqctl" --quiet -n "$(node_name "$rabbit")@localhost" "$@"
}

native_rabbitmq_url() { echo "amqp://guest:guest@127.0.0.1:$(port_of "$rabbit")/%2f"; }
