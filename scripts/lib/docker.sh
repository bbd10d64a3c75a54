# shellcheck shell=bash
# Postgres and RabbitMQ in containers. For scripts/services.

postgres_image=postgres:17.6
rabbitmq_image=rabbitmq:4.1.4

container() { echo "earmark-$id-$1"; } # NAME

docker_answers() { command -v docker >/dev/null && timeout 5 docker info >/dev/null 2>&1; }

docker_running() { # NAME
    [[ $(docker inspect -f '{{.State.Running}}' "$(container "$1")" 2>/dev/null) == true ]]
}

docker_is_up() { # NAME
    docker_running "$1" || return 1
    case $1 in
    # Over TCP: the server that sets up the data for the first time has a Unix socket only.
    postgres) docker exec "$(container postgres)" pg_isready -q -h 127.0.0.1 -U postgres ;;
    rabbitmq) amqp_answers "$(port_of rabbitmq)" ;;
    esac
}

docker_pid() { docker inspect -f '{{.State.Pid}}' "$(container "$1")"; } # NAME

docker_url() { # NAME
    case $1 in
    postgres) echo "postgres://postgres:$(<"$local_dir/docker.secret")@127.0.0.1:$(port_of postgres)/earmark" ;;
    rabbitmq) echo "amqp://earmark:$(<"$local_dir/docker.secret")@127.0.0.1:$(port_of rabbitmq)/%2f" ;;
    esac
}

docker_psql() { docker exec -i "$(container postgres)" psql -U postgres -d earmark "$@"; }

docker_rabbitmqctl() { docker exec "$(container rabbitmq)" rabbitmqctl --quiet "$@"; }

# The password belongs to the data, so a new one needs new data.
docker_secret() {
    local secret
    [[ -s $local_dir/docker.secret ]] && return
    docker rm -f "$(container postgres)" "$(container rabbitmq)" >/dev/null 2>&1 || true
    docker volume rm "$(container postgres)" "$(container rabbitmq)" >/dev/null 2>&1 || true
    secret=$(random_hex 16)
    write_file "$local_dir/docker.postgres.env" "POSTGRES_PASSWORD=$secret"$'\n'"POSTGRES_DB=earmark"
    write_file "$local_dir/docker.rabbitmq.env" "RABBITMQ_DEFAULT_USER=earmark"$'\n'"RABBITMQ_DEFAULT_PASS=$secret"
    write_file "$local_dir/docker.secret" "$secret"
}

docker_create() { # NAME
    case $1 in
    postgres)
        docker_run postgres 5432 0 /var/lib/postgresql/data --shm-size=256m "$postgres_image" \
            -c max_connections=500 -c shared_buffers=256MB -c max_wal_size=4GB \
            -c shared_preload_libraries=pg_stat_statements
        ;;
    # RabbitMQ names its data after the host.
    rabbitmq) docker_run rabbitmq 5672 1 /var/lib/rabbitmq --hostname=earmark "$rabbitmq_image" ;;
    esac
}

docker_run() { # NAME PORT SLOT DATA ARGUMENTS...
    local name
    name=$(container "$1")
    choose_port "$1" "$3"
    say "$1: starting a container on 127.0.0.1:$(port_of "$1") (the first time its image is fetched) …"
    docker run -d --name "$name" --label "earmark.folder=$local_dir" --label "earmark.server=$1" \
        --env-file "$local_dir/docker.$1.env" -p "127.0.0.1:$(port_of "$1"):$2" -v "$name:$4" "${@:5}" \
        </dev/null >"$local_dir/docker.$1.log" 2>&1
}

docker_start() { # NAME
    local name log=$local_dir/docker.$1.log
    name=$(container "$1")
    if ! docker_running "$1"; then
        docker start "$name" </dev/null >"$log" 2>&1 || {
            # There is none yet, or its port is taken: the data is in the volume.
            [[ -z $keep_ports ]] || fail_with_log "$1" "docker start failed" "$log"
            docker rm -f "$name" >/dev/null 2>&1 || true
            docker_create "$1" || fail_with_log "$1" "docker run failed" "$log"
        }
    fi
    until_true 120 docker_is_up "$1" || {
        docker logs --tail 20 "$name" >"$log" 2>&1 || true
        fail_with_log "$1" "is not ready" "$log"
    }
    docker_pid "$1" >"$local_dir/$1.pid"
}

docker_stop() { # NAME [--immediate]
    local how=(stop -t 30)
    [[ ${2:-} != --immediate ]] || how=(kill)
    docker_running "$1" || return 0
    docker "${how[@]}" "$(container "$1")" >/dev/null
    rm -f "$local_dir/$1.pid"
    say "$1: stopped"
}

# The volumes stay, unless everything is to go.
docker_down() { # [--purge]
    local name
    [[ -s $local_dir/docker.secret ]] || return 0
    docker_answers || { [[ $(recorded_mode) != docker ]] || say "services: no Docker engine answers, so no container runs"; return 0; }
    for name in postgres rabbitmq; do
        docker_stop "$name"
        docker rm -f "$(container "$name")" >/dev/null 2>&1 || true
        [[ ${1:-} != --purge ]] || docker volume rm "$(container "$name")" >/dev/null 2>&1 || true
    done
}
