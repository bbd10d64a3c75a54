# shellcheck shell=bash
# Three nodes of RabbitMQ in a cluster. For scripts/services. Needs rabbitmq.sh.
#
# One node reaches another over a link: a socat that listens in front of the other one's port. To freeze it is to lose the
# network between the two: what is sent neither arrives nor fails. Each node has an epmd of its own, which names the links
# instead of the other nodes. epmd keeps a name as long as the connection that registered it is open; the link holds it.

nodes=(1 2 3)

use_node() { # NODE: all that follows is about this one
    [[ ${1:-} =~ ^[123]$ ]] || die "say which node: 1, 2 or 3"
    rabbit=rabbitmq-$1
}

find_cluster_programs() {
    command -v socat >/dev/null && command -v epmd >/dev/null && return
    [[ -n $install ]] && can_install && apt_install socat && return
    die "missing program: install the package socat"
}

# The ports stay what they are once they are chosen: the other nodes and the clients know them.
choose_cluster_ports() {
    local node other
    for node in "${nodes[@]}"; do
        [[ -z $(port_of "rabbitmq-$node") ]] || continue
        (use_node "$node" && choose_rabbitmq_ports)
        choose_port "management-$node" $((4 * node))
        for other in "${nodes[@]}"; do
            choose_port "link-$node-$other" $((16 + 3 * (node - 1) + other - 1))
        done
    done
    keep_ports=1
}

# The rest of what a node needs before it starts.
prepare_node() { # DIR
    local node=${rabbit#rabbitmq-} other
    # Blank nodes join the first. A node that another has not heard of for 5 s counts as gone; with the default of 60 s a
    # frozen node keeps its consumers that long.
    cat >>"$1/rabbitmq.conf" <<CONFIG
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = $(node_name rabbitmq-1)@localhost
cluster_partition_handling = autoheal
net_ticktime = 5
management.tcp.ip = 127.0.0.1
management.tcp.port = $(port_of "management-$node")
CONFIG
    echo '[rabbitmq_management].' >"$1/enabled_plugins"
    install -m 400 "$local_dir/cluster.cookie" "$1/home/.erlang.cookie"
    env "$(rabbitmq_mark)" epmd -daemon -address 127.0.0.1 -port "$(port_of "$rabbit-epmd")"
    until_true 10 answers "$(port_of "$rabbit-epmd")" || die "$rabbit: its epmd does not start"
    for other in "${nodes[@]}"; do
        [[ $other == "$node" ]] || start_link "$node" "$other"
    done
}

link_mark() { echo "EARMARK_RABBITMQ=$(node_name "rabbitmq-$1")-to-$2"; } # FROM TO

start_link() { # FROM TO
    local port name epmd
    port=$(port_of "link-$1-$2") name=$(node_name "rabbitmq-$2")
    signal_marked KILL "$(link_mark "$1" "$2")"
    exec {epmd}<>"/dev/tcp/127.0.0.1/$(port_of "rabbitmq-$1-epmd")"
    # ALIVE2_REQ: length, x, port, M for a usual node, TCP, the versions of the protocol, name, nothing more.
    {
        printf '%b' "$(printf '%04xx%04xM0000060005%04x' $((13 + ${#name})) "$port" ${#name} |
            sed 's/[0-9a-f]\{2\}/\\x&/g')"
        printf '%s\0\0' "$name"
    } >&"$epmd"
    IFS= read -r -t 10 -n 1 -u "$epmd" _ || die "$rabbit: its epmd does not take the name of node $2"
    env "$(link_mark "$1" "$2")" setsid socat "TCP-LISTEN:$port,bind=127.0.0.1,reuseaddr,nodelay,fork" \
        "TCP:127.0.0.1:$(port_of "rabbitmq-$2-dist"),nodelay" </dev/null >"$local_dir/$rabbit/link-to-$2.log" 2>&1 &
    exec {epmd}>&-
}

signal_links() { # SIGNAL NODE OTHER
    signal_marked "$1" "$(link_mark "$2" "$3")"
    signal_marked "$1" "$(link_mark "$3" "$2")"
}

start_node() { # NODE
    local begin=${EPOCHREALTIME/./}
    use_node "$1"
    if native_rabbitmq_is_up; then
        say "$rabbit: already up on 127.0.0.1:$(port_of "$rabbit")"
        return
    fi
    native_rabbitmq_start
    say "$rabbit: ready on 127.0.0.1:$(port_of "$rabbit") in $(elapsed "$begin")"
}

signal_node() { # SIGNAL NODE
    local pid
    use_node "$2"
    pid=$(native_rabbitmq_pid) || die "$rabbit does not run"
    kill "-$1" "$pid"
}

# Starts what does not run, and mends what was paused or cut.
cluster_up() {
    local node other failed='' starting=() others=("${nodes[@]}")
    [[ -f $local_dir/cluster.cookie ]] || write_file "$local_dir/cluster.cookie" "$(random_hex 16)"
    for node in "${nodes[@]}"; do
        for other in "${nodes[@]}"; do signal_links CONT "$node" "$other"; done
        (use_node "$node" && signal_marked CONT "$(rabbitmq_mark)")
    done
    choose_cluster_ports
    if [[ ! -d $local_dir/rabbitmq-1/data ]]; then
        (start_node 1) # the others join it
        others=(2 3)
    fi
    for node in "${others[@]}"; do
        (start_node "$node") &
        starting+=($!)
    done
    for node in "${starting[@]}"; do wait "$node" || failed=1; done
    [[ -z $failed ]] || exit 1
    write_file "$env_file" "$(cluster_env)"
}

# Keeps the Postgres that is named there.
cluster_env() {
    local node urls=()
    for node in "${nodes[@]}"; do
        use_node "$node"
        urls+=("$(native_rabbitmq_url)")
    done
    grep -s '^DATABASE_URL=' "$env_file" || true
    (IFS=, && echo "AMQP_URL=${urls[*]}")
    echo "RABBITMQ_MANAGEMENT_URL=http://guest:guest@127.0.0.1:$(port_of management-1)"
}

cluster_down() { # [--immediate]
    local node other failed='' stopping=()
    for node in "${nodes[@]}"; do
        for other in "${nodes[@]}"; do signal_links KILL "$node" "$other"; done
        (use_node "$node" && native_rabbitmq_stop "$@") &
        stopping+=($!)
    done
    for node in "${stopping[@]}"; do wait "$node" || failed=1; done
    [[ -z $failed ]]
}
