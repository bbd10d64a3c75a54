# shellcheck shell=bash
# What several scripts use; they source it.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
local_dir=$(realpath -m -- "${EARMARK_LOCAL:-$root/.local}") # where all state is kept

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

fail_with_log() { # NAME MESSAGE LOG...
    local log
    say "$1: $2"
    for log in "${@:3}"; do
        [[ -s $log ]] || continue
        say "--- the end of $log"
        tail -n 20 "$log" >&2
    done
    exit 1
}

# Microseconds in, "1.2 s" out.
elapsed() {
    local tenths=$(((${EPOCHREALTIME/./} - $1) / 100000))
    printf '%d.%d s' $((tenths / 10)) $((tenths % 10))
}

# until_true SECONDS COMMAND...
until_true() {
    local end=$((${EPOCHREALTIME/./} + $1 * 1000000))
    shift
    until "$@"; do
        ((${EPOCHREALTIME/./} < end)) || return 1
        sleep 0.05
    done
}

write_file() { # PATH CONTENT: atomically, readable by the owner only
    (umask 077 && printf '%s\n' "$2" >"$1.new")
    mv -f "$1.new" "$1"
}

random_hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# json_field NAME prints the string of that name in the JSON on standard input.
json_field() { sed -n 's/.*"'"$1"'"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p'; }

# Exports the NAME=VALUE lines of standard input. A file of them is not sourced: a URL given from outside may hold
# characters that mean something to a shell.
export_lines() {
    local line
    while IFS= read -r line; do export "${line?}"; done
}

answers() { # PORT [HOST]
    (exec 3<>"/dev/tcp/${2:-127.0.0.1}/$1") 2>/dev/null
}
