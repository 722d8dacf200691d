#!/usr/bin/env bash
# assemble beside the usual way: mmdebstrap to a base, `docker build` of a Dockerfile for the same
# content with `poetry install`, `docker save`, `docker push`. Both from one folder of the same
# downloaded files, and to the same registry program, Debian's `docker-registry`.
#
#     benches/peers.sh [--small] [--podman] [--rows GROUPS] [--write] FOLDER
#
#   FOLDER     for everything that is written; what is measured goes when it ends, the downloads in
#              FOLDER/downloads stay. All of it needs 60 GB, `--small` 5 GB.
#   --small    without what is large: no torch, no CuPy, the small CUDA components. To try the script.
#   --podman   measure `podman build` + `podman save` as well.
#   --rows     some of tarball,change,push,cache, in this order; what these need is built all the same.
#   --write    put the table into docs/performance.md. Of the whole image, and all groups.
#
# As root, on Debian 12: it installs what is missing, and starts a Docker engine if none answers. The
# row "with the network" is there when the downloads are not. With PEERS_STORE=DIR they are taken from
# the store in DIR; PEERS_ASSEMBLE=FILE is measured in place of this tree's release build. The engine's
# containers use the host's network: files come from a server on the loopback.
set -euo pipefail
exec </dev/null

root=$(realpath "$(dirname "$0")/..")
small= podman= write= folder= all=tarball,change,push,cache
groups=$all
usage() {
    sed -n '2,/^set/p' "$0" | sed '$d;s/^# \{0,1\}//' >&2
    exit 2
}
# among WORD LIST: whether a list with commas has the word.
among() {
    case ,$2, in *,"$1",*) true ;; *) false ;; esac
}
while [ "$#" != 0 ]; do
    case $1 in
        --small) small=1 ;;
        --podman) podman=1 ;;
        --write) write=1 ;;
        --rows) shift && groups=${1:-} ;;
        -*) usage ;;
        *) folder=$1 ;;
    esac
    shift
done
[ -n "$folder" ] || usage
for group in ${groups//,/ }; do among "$group" "$all" || usage; done
[ -z "$write" ] || { [ -z "$small" ] && [ "$groups" = "$all" ]; } || usage
if [ "$(id -u)" != 0 ]; then
    echo "error: mmdebstrap's fastest mode and the Docker engine need root" >&2
    exit 8
fi

install() {
    local missing=() package
    for package in curl docker.io docker-registry iptables mmdebstrap hyperfine time dpkg-dev git python3 "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    if [ "${#missing[@]}" != 0 ]; then
        apt-get update -q >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
    fi
}
install ${podman:+podman}
docker info >/dev/null 2>&1 || exec "$root/.ci/with-docker" "$0" \
    ${small:+--small} ${podman:+--podman} --rows "$groups" ${write:+--write} "$folder"

mkdir -p "$folder"
folder=$(realpath "$folder")
work=$folder/work
files=$work/files project=$work/project store=$work/store context=$work/context results=$work/results
port=${PEERS_PORT:-8765}
url=http://127.0.0.1:$port
host=127.0.0.1:$((port + 1))
server= registry=

say() {
    echo "--- $*" >&2
}

clean() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    registry_stop
    for image in usual ours base; do
        docker rmi -f "peers:$image" "$host/peers/$image" >/dev/null 2>&1 || true
    done
    prune
    [ ! -d "$work/podman" ] || podman --root "$work/podman" --runroot "$work/podman-run" system reset -f >/dev/null 2>&1 || true
    umount "$work/podman/overlay" 2>/dev/null || true
    rm -rf "$work"
}

# The images that have lost their names.
prune() {
    docker image prune -f --filter label=peers >/dev/null 2>&1 || true
}

# --- the registry: what it holds lies in the work folder, and goes when it stops
registry_start() {
    registry_stop
    cat >"$work/registry.yml" <<CONFIGURATION
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "$host"}
CONFIGURATION
    docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
    registry=$!
    curl --silent --fail --output /dev/null --retry 20 --retry-connrefused --retry-delay 1 "http://$host/v2/" ||
        { cat "$work/registry.log" >&2; exit 1; }
}
registry_stop() {
    [ -z "$registry" ] || { kill "$registry" && wait "$registry"; } 2>/dev/null || true
    registry=
    rm -rf "$work/registry"
}

# --- rows: KEY, SIDE, seconds, CPU seconds, and kilobytes of the largest process

# measure KEY SIDE COMMAND…
measure() {
    local key=$1 side=$2
    shift 2
    say "$key, $side"
    if ! /usr/bin/time -o "$work/time" -f '%e\t%U\t%S\t%M' "$@" >"$work/log" 2>&1; then
        tail -40 "$work/log" >&2
        exit 1
    fi
    awk -F'\t' -v OFS='\t' -v key="$key" -v side="$side" '{ print key, side, $1, $2 + $3, $4 }' "$work/time" | tee -a "$results" >&2
}

# repeat KEY SIDE PREPARATION COMMAND: the same, by hyperfine, of ten runs; memory from one more, of
# the command's first program alone.
repeat() {
    local key=$1 side=$2 prepare=$3 command=$4
    say "$key, $side"
    hyperfine --style none --warmup 1 --runs 10 --prepare "$prepare" --export-json "$work/hyperfine" "$command" >"$work/log" 2>&1 ||
        { cat "$work/log" >&2; exit 1; }
    bash -c "$prepare"
    /usr/bin/time -o "$work/time" -f %M bash -c "exec $command" >/dev/null 2>&1
    python3 - "$key" "$side" "$work/hyperfine" "$work/time" <<'PYTHON' | tee -a "$results" >&2
import json, sys
key, side, result, memory = sys.argv[1:]
(run,) = json.load(open(result))["results"]
print(key, side, f'{run["median"]:.4f}', f'{run["user"] + run["system"]:.4f}', open(memory).read().strip(), sep="\t")
PYTHON
}

# sum KEY SIDE PART…: a row made of others.
sum() {
    local key=$1 side=$2 row
    shift 2
    row=$(awk -F'\t' -v OFS='\t' -v key="$key" -v side="$side" -v parts=" $* " '
        index(parts, " " $1 " ") && $2 == side { seconds += $3; cpu += $4; if ($5 > kilobytes) kilobytes = $5 }
        END { if (seconds) print key, side, seconds, cpu, kilobytes }' "$results")
    [ -z "$row" ] || echo "$row" >>"$results"
}

floor() {
    printf '%s\tfloor\t%s\n' "$1" "$2" >>"$results"
}

note() {
    printf '%s\tnote\t%s\n' "$1" "$2" >>"$results"
}

seconds() {
    awk -F'\t' -v key="$1" -v side="$2" '$1 == key && $2 == side { printf($3 < 10 ? "%.1f s" : "%.0f s", $3) }' "$results"
}

gigabytes() {
    awk '{ printf "%.2f GB", $1 / 1e9 }'
}

peers() {
    python3 "$root/benches/peers.py" "$@"
}

# --- the inputs of both sides
prepare() {
    assemble=${PEERS_ASSEMBLE:-$root/target/release/assemble}
    if [ -z "${PEERS_ASSEMBLE:-}" ]; then
        say "assemble itself"
        (cd "$root" && cargo build --release --quiet)
    fi
    realise="$assemble image --variant binary --locked --quiet --tag peers:ours --project $project"
    image="$realise --offline --store $store"

    # The manifest, the lock and the application, as they are committed.
    mkdir -p "$project"
    git -c safe.directory="$root" -C "$root" archive HEAD pyproject.toml poetry.toml assemble.lock spectralmc | tar -x -C "$project"
    [ -z "$small" ] || peers small "$project"

    local downloads=${PEERS_STORE:-$folder/downloads${small:+-small}}
    if [ ! -d "$downloads/blobs" ]; then
        measure network ours $realise --store "$work/downloaded" --output "$work/network.tar"
        rm "$work/network.tar"
        peers files "$project" "$work/downloaded" "$files"
        mkdir "$downloads"
        cp -al "$files/blobs" "$downloads/"
        rm -rf "$work/downloaded"
    elif [ "$(stat -c %d "$downloads")" = "$(stat -c %d "$folder")" ]; then
        peers files "$project" "$downloads" "$files"
    else
        say "copying the downloads: they are on another disk"
        mkdir -p "$work/copied/blobs"
        grep -oE '[0-9a-f]{64}' "$project/assemble.lock" | sort -u | while read -r digest; do
            [ ! -f "$downloads/blobs/$digest" ] || cp "$downloads/blobs/$digest" "$work/copied/blobs/"
        done
        peers files "$project" "$work/copied" "$files"
        rm -rf "$work/copied"
    fi
    (cd "$files/debs" && dpkg-scanpackages --multiversion . 2>/dev/null >Packages)
    python3 -m http.server --bind 127.0.0.1 --directory "$files" "$port" >"$work/server" 2>&1 &
    server=$!
    sleep 1
    kill -0 "$server" || { cat "$work/server" >&2; exit 1; }
    # Both sides find the files in memory, as far as they fit.
    cat "$files"/blobs/* >/dev/null
}

# A store that has the downloads and nothing else.
fresh_store() {
    rm -rf "$store"
    mkdir -p "$store"
    cp -al "$files/blobs" "$store/blobs"
}

fresh_context() {
    peers context "$project" "$files" "$url" "$context"
    $assemble lock --export poetry --project "$project" --store "$store" >"$work/poetry.lock"
    peers poetry-lock "$project" "$url" "$context" <"$work/poetry.lock"
}

# --- the usual way; `measure` runs it in a shell of its own
base() {
    mmdebstrap --quiet --mode=root --variant=essential --include=apt,ca-certificates,usr-is-merged \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
        '' "$work/base.tar" "deb [trusted=yes] copy:$files/debs ./"
}
usual() {
    local step
    for step in "$@"; do
        case $step in
            base) base && docker import "$work/base.tar" peers:base ;;
            build) docker build --network host --label peers --build-arg URL="$url" --tag peers:usual "$context" ;;
            save) docker save --output "$work/usual.tar" peers:usual ;;
            load) docker load --input "$work/usual.tar" ;;
            run) docker run --rm --network none peers:usual true ;;
            push) docker tag peers:usual "$host/peers/usual" && docker push --quiet "$host/peers/usual" ;;
        esac
    done
}

# measure_usual KEY STEP…
measure_usual() {
    local key=$1
    shift
    measure "$key" usual bash -euc 'usual "$@"' usual "$@"
}

# --- the layers and the engine's image, which everything else begins with
build() {
    fresh_store
    measure layers ours $image
    digest=$($image)
    fresh_context
    measure_usual usual-base base
    measure_usual usual-build build
    sum layers usual usual-base usual-build
}

# --- group tarball
tarball() {
    local floor_all saved
    # First, for it needs the most room.
    measure_usual usual-save save
    saved=$(stat -c %s "$work/usual.tar")
    rm "$work/usual.tar"
    sum tarball usual usual-base usual-build usual-save
    sum engine usual usual-base usual-build
    note "the usual way" "$(seconds usual-base usual) mmdebstrap and import, $(seconds usual-build usual) docker build, $(seconds usual-save usual) docker save"
    measure_usual noop build

    fresh_store
    measure tarball ours $image --output "$work/ours.tar"
    repeat noop ours true "$image"
    say "floor"
    floor_all=$(peers floor "$work/ours.tar" "$work/floor")
    floor tarball "$floor_all"
    floor layers "$floor_all"
    measure load ours docker load --input "$work/ours.tar"
    sum engine ours tarball load
    note "sizes" "$(gigabytes <<<"$saved") saved and $(unpacked usual) unpacked the usual way, $(stat -c %s "$work/ours.tar" | gigabytes) and $(unpacked ours) ours"
    rm "$work/ours.tar"
    compare
}

unpacked() {
    docker image inspect --format '{{.Size}}' "peers:$1" | gigabytes
}

# Both images run, and hold the same distributions.
compare() {
    local side module=torch
    [ -z "$small" ] || module=numpy
    for side in usual ours; do
        docker run --rm --network none peers:$side python3 -m pip list --format freeze --exclude spectralmc >"$work/list-$side"
        measure import $side docker run --rm --network none peers:$side python3 -c "import $module"
    done
    if ! diff "$work/list-usual" "$work/list-ours" >&2; then
        echo "error: the two images do not hold the same distributions" >&2
        exit 1
    fi
}

# --- group change: one line of the application, one small dependency; built, and to a running container
change() {
    local application=$project/spectralmc/__init__.py shared
    local line="echo '# a line' >>$application" bump="python3 $root/benches/peers.py bump $project $files $store"
    local loaded="$image --load && docker run --rm --network none peers:ours true"
    repeat line ours "$line" "$image"
    # What a load took the name from goes before the next one, and is not measured.
    cat >"$work/forget" <<'SCRIPT'
[ ! -s "$work/last" ] || docker rmi -f "$(cat "$work/last")" >/dev/null 2>&1 || true
docker image inspect --format '{{.Id}}' peers:ours >"$work/last"
SCRIPT
    $image --load >/dev/null
    repeat load-line ours "bash $work/forget; $line" "$loaded"
    sum load-line-saved ours load-line
    # The other side's copy of the project is still the one without the new dependency.
    cp "$application" "$context/spectralmc/"
    measure_usual line build
    measure_usual line-run run
    sum load-line usual line line-run

    repeat dependency ours "$bump" "$image"
    $image --output "$work/changed.tar" >/dev/null
    shared=$($image --json | python3 -c 'import json, sys; print(next(layer["digest"] for layer in json.load(sys.stdin)["layers"] if "poetry install," in layer["name"])[7:])')
    floor dependency "$(peers floor "$work/changed.tar" "$work/floor" "$shared")"
    rm "$work/changed.tar"
    repeat load-dependency ours "bash $work/forget; $bump" "$loaded"
    bash "$work/forget"
    # Two tarballs of the usual way need the room.
    docker rmi -f peers:ours >/dev/null
    fresh_context
    measure_usual dependency build
    measure_usual dependency-run run
    sum load-dependency usual dependency dependency-run
    prune

    echo '# another line' >>"$context/spectralmc/__init__.py"
    measure_usual load-line-saved build save load run
    rm "$work/usual.tar"
}

# --- group push: each side to a registry that is empty at first
push() {
    local application=$project/spectralmc/__init__.py
    local push="$realise --store $store --push $host/peers/ours:latest"
    registry_start
    measure first-push ours $push
    repeat push-line ours "echo '# a line' >>$application" "$push"
    registry_start
    measure_usual first-push push
    echo '# a line' >>"$context/spectralmc/__init__.py"
    measure_usual push-line build push
    docker rmi "$host/peers/usual" >/dev/null
    registry_stop
}

# --- group cache: a second machine, whose store is empty
cache() {
    local second="$realise --store $work/second --cache $host/peers/cache"
    registry_start
    measure cache-to ours $realise --store "$store" --cache-to "$host/peers/cache"
    measure cache ours $second --output "$work/second.tar"
    sum cache usual tarball
    [ "$($second)" = "$($image)" ] || { echo "error: the second machine made another image" >&2; exit 1; }
    rm -rf "$work/second" "$work/second.tar"
    # What the network takes: the same blobs, by a program that does nothing else.
    mkdir "$work/fetched"
    $image --json | python3 -c '
import json, sys
for layer in json.load(sys.stdin)["layers"]:
    digest = layer["digest"]
    print(f"url = http://{sys.argv[1]}/v2/peers/cache/blobs/{digest}\noutput = {digest}")' "$host" >"$work/blobs"
    measure fetched curl curl --silent --fail --parallel --parallel-max 6 --output-dir "$work/fetched" --config "$work/blobs"
    note "the cache" "filled in $(seconds cache-to ours), a tarball from it in $(seconds cache ours); our own build from downloaded inputs to a tarball takes $(seconds tarball ours), and curl alone, from that registry to the disk, the layers in $(seconds fetched curl)"
    rm -rf "$work/fetched"
    registry_stop
}

# --- one more peer
podman_way() {
    local podman="podman --root $work/podman --runroot $work/podman-run --cgroup-manager cgroupfs"
    base
    $podman import "$work/base.tar" peers:base
    $podman build --isolation chroot --network host --build-arg URL="$url" --tag peers:podman "$context"
    $podman save --format oci-archive --output "$work/podman.tar" peers:podman
}
with_podman() {
    fresh_context
    measure podman usual bash -euc podman_way
    sum podman ours tarball
    rm -f "$work/podman.tar"
}

table() {
    local machine memory sha commit document=-
    machine=$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1)
    memory=$(awk '/MemTotal/ { printf "%.0f GB", $2 / 1e6 }' /proc/meminfo)
    sha=$(grep -qw sha_ni /proc/cpuinfo && echo "with SHA-NI" || echo "without SHA-NI")
    commit=$(git -c safe.directory="$root" -C "$root" rev-parse --short HEAD)
    [ -z "$write" ] || document=$root/docs/performance.md
    peers table "$results" "$document" \
        "$(date -u +%F), commit $commit${small:+, \`--small\`}: $(nproc) cores ($machine, $sha), $memory, Linux $(uname -r), $(findmnt -no FSTYPE -T "$folder"), Docker $(docker version --format '{{.Server.Version}}'), docker-registry $(dpkg-query -W -f '${Version}' docker-registry), image \`${digest:0:19}…\`."
}

trap clean EXIT
trap 'exit 130' INT TERM
clean
mkdir -p "$work"
export -f usual base podman_way
export work files context url host DOCKER_BUILDKIT=0
prepare
build
for group in ${all//,/ }; do
    ! among "$group" "$groups" || "$group"
done
[ -z "$podman" ] || with_podman
table
