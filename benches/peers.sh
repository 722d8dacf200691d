#!/usr/bin/env bash
# assemble beside the usual way: mmdebstrap to a base, `docker build` of a Dockerfile for the same
# content with `poetry install`, `docker save`. Both from one folder of the same downloaded files.
#
#     benches/peers.sh [--small] [--podman] [--write] FOLDER
#
#   FOLDER     for everything that is written; what is measured goes when it ends, the downloads in
#              FOLDER/files stay. All of it needs 60 GB, `--small` 5 GB.
#   --small    without what is large: no torch, no CuPy, the small CUDA components. To try the script.
#   --podman   measure `podman build` + `podman save` as well.
#   --write    put the table into docs/performance.md.
#
# As root, on Debian 12: it installs what is missing, and starts a Docker engine if none answers. With
# PEERS_STORE=DIR the downloads are taken from the store in DIR, and the row "with the network" is
# left out; PEERS_ASSEMBLE=FILE is measured in place of this tree's release build. The engine's
# containers use the host's network: files come from a server on the loopback.
set -euo pipefail
exec </dev/null

root=$(realpath "$(dirname "$0")/..")
small= podman= write= folder=
for argument in "$@"; do
    case $argument in
        --small) small=1 ;;
        --podman) podman=1 ;;
        --write) write=1 ;;
        -*) sed -n '2,/^set/p' "$0" | sed '$d;s/^# \{0,1\}//' >&2; exit 2 ;;
        *) folder=$argument ;;
    esac
done
if [ -z "$folder" ]; then
    echo "usage: benches/peers.sh [--small] [--podman] [--write] FOLDER" >&2
    exit 2
fi
if [ "$(id -u)" != 0 ]; then
    echo "error: mmdebstrap's fastest mode and the Docker engine need root" >&2
    exit 8
fi

install() {
    local missing=() package
    for package in docker.io iptables mmdebstrap hyperfine time dpkg-dev git python3 "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    if [ "${#missing[@]}" != 0 ]; then
        apt-get update -q >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
    fi
}
install ${podman:+podman}
docker info >/dev/null 2>&1 || exec "$root/.ci/with-docker" "$0" "$@"

mkdir -p "$folder"
folder=$(realpath "$folder")
work=$folder/work files=$folder/files project=$folder/work/project store=$folder/work/store
results=$work/results
port=${PEERS_PORT:-8765}
url=http://127.0.0.1:$port
server=

say() {
    echo "--- $*" >&2
}

clean() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    for image in usual ours base; do
        docker rmi -f "peers:$image" >/dev/null 2>&1 || true
    done
    docker image prune -f --filter label=peers >/dev/null 2>&1 || true
    [ ! -d "$work/podman" ] || podman --root "$work/podman" --runroot "$work/podman-run" system reset -f >/dev/null 2>&1 || true
    umount "$work/podman/overlay" 2>/dev/null || true
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM
clean
mkdir -p "$work" "$files"

# measure KEY SIDE COMMAND…: seconds, CPU seconds and kilobytes of the largest process.
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

# repeat KEY SIDE PREPARATION COMMAND: the same, by hyperfine, of ten runs; memory from one more.
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

note() {
    printf '%s\tnote\t%s\n' "$1" "$2" >>"$results"
}

peers() {
    python3 "$root/benches/peers.py" "$@"
}

assemble=${PEERS_ASSEMBLE:-$root/target/release/assemble}
if [ -z "${PEERS_ASSEMBLE:-}" ]; then
    say "assemble itself"
    (cd "$root" && cargo build --release --quiet)
fi
image="$assemble image --variant binary --locked --offline --quiet --tag peers:ours --project $project --store $store"

# The manifest, the lock and the application, as they are committed.
mkdir -p "$project"
git -c safe.directory="$root" -C "$root" archive HEAD pyproject.toml poetry.toml assemble.lock spectralmc | tar -x -C "$project"
[ -z "$small" ] || peers small "$project"

# --- the one folder of downloaded files
downloads=${PEERS_STORE:-$folder/downloads}
if [ -z "${PEERS_STORE:-}" ]; then
    rm -rf "$downloads"
    measure network ours "$assemble" image --variant binary --locked --project "$project" --store "$downloads" --output "$work/network.tar"
    rm "$work/network.tar"
fi
rm -rf "$files"
if [ "$(stat -c %d "$downloads")" != "$(stat -c %d "$folder")" ]; then
    say "copying the downloads: they are on another disk"
    mkdir -p "$work/copied/blobs"
    grep -oE '[0-9a-f]{64}' "$project/assemble.lock" | sort -u | while read -r digest; do
        [ ! -f "$downloads/blobs/$digest" ] || cp "$downloads/blobs/$digest" "$work/copied/blobs/"
    done
    downloads=$work/copied
fi
peers files "$project" "$downloads" "$files"
[ -n "${PEERS_STORE:-}" ] || rm -rf "$downloads"
(cd "$files/debs" && dpkg-scanpackages --multiversion . 2>/dev/null >Packages)
python3 -m http.server --bind 127.0.0.1 --directory "$files" "$port" >"$work/server" 2>&1 &
server=$!
sleep 1
kill -0 "$server" || { cat "$work/server" >&2; exit 1; }

# A store that has the downloads and nothing else.
fresh_store() {
    rm -rf "$store"
    mkdir -p "$store"
    cp -al "$files/blobs" "$store/blobs"
}

context=$work/context
fresh_context() {
    peers context "$project" "$files" "$url" "$context"
    $assemble lock --export poetry --project "$project" --store "$store" >"$work/poetry.lock"
    peers poetry-lock "$project" "$url" "$context" <"$work/poetry.lock"
}

# --- ours
warm() {
    # Both sides find the files in memory, as far as they fit.
    cat "$files"/blobs/* >/dev/null
}
fresh_store
warm
measure layers ours $image
fresh_store
measure tarball ours $image --output "$work/ours.tar"
digest=$($image)
repeat noop ours true "$image"
say "floor"
floor_all=$(peers floor "$work/ours.tar" "$work/floor")
printf 'tarball\tfloor\t%s\nlayers\tfloor\t%s\n' "$floor_all" "$floor_all" >>"$results"

# --- the usual way
fresh_context
base() {
    mmdebstrap --quiet --mode=root --variant=essential --include=apt,ca-certificates,usr-is-merged \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
        '' "$work/base.tar" "deb [trusted=yes] copy:$files/debs ./"
}
usual() {
    local build=$1
    case $build in
        base) base && docker import "$work/base.tar" peers:base ;;
        build) docker build --network host --label peers --build-arg URL="$url" --tag peers:usual "$context" ;;
        save) docker save --output "$work/usual.tar" peers:usual ;;
    esac
}
export -f usual base
export work files context url DOCKER_BUILDKIT=0
measure usual-base usual bash -euc 'usual base'
measure usual-build usual bash -euc 'usual build'
measure usual-save usual bash -euc 'usual save'
sum() {
    awk -F'\t' -v OFS='\t' -v key="$1" -v wanted=" $2 " '
        index(wanted, " " $1 " ") && $2 == "usual" { seconds += $3 } END { print key, "usual", seconds, "-", "-" }' "$results" >>"$results.sum"
    cat "$results.sum" >>"$results"
    rm "$results.sum"
}
sum tarball "usual-base usual-build usual-save"
sum engine "usual-base usual-build"
sum layers "usual-base usual-build"
part() {
    awk -F'\t' -v key="$1" '$1 == key && $2 == "usual" { printf "%.0f s", $3 }' "$results"
}
note "the usual way" "$(part usual-base) mmdebstrap and import, $(part usual-build) docker build, $(part usual-save) docker save"
saved=$(stat -c %s "$work/usual.tar")
rm -f "$work/usual.tar"
measure noop usual bash -euc 'usual build'

# --- both images run, and hold the same distributions
measure load ours docker load --input "$work/ours.tar"
unpacked() {
    docker image inspect --format '{{.Size}}' "peers:$1" | awk '{ printf "%.2f GB", $1 / 1e9 }'
}
note "sizes" "$(awk -v size="$saved" 'BEGIN { printf "%.2f GB", size / 1e9 }') saved and $(unpacked usual) unpacked the usual way, $(stat -c %s "$work/ours.tar" | awk '{ printf "%.2f GB", $1 / 1e9 }') and $(unpacked ours) ours"
awk -F'\t' -v OFS='\t' '$2 == "ours" && ($1 == "tarball" || $1 == "load") { seconds += $3 } END { print "engine", "ours", seconds, "-", "-" }' "$results" >"$work/sum"
cat "$work/sum" >>"$results"
module=torch
[ -z "$small" ] || module=numpy
for side in usual ours; do
    docker run --rm --network none peers:$side python3 -m pip list --format freeze --exclude spectralmc >"$work/list-$side"
    measure import $side docker run --rm --network none peers:$side python3 -c "import $module"
done
if ! diff "$work/list-usual" "$work/list-ours" >&2; then
    echo "error: the two images do not hold the same distributions" >&2
    exit 1
fi

# --- small changes
application=$project/spectralmc/__init__.py
repeat line ours "echo '# a line' >>$application" "$image"
cp "$application" "$context/spectralmc/"
measure line usual bash -euc 'usual build'

repeat dependency ours "python3 $root/benches/peers.py bump $project $files $store" "$image"
$image --output "$work/changed.tar" >/dev/null
shared=$($image --json | python3 -c 'import json, sys; print(next(layer["digest"] for layer in json.load(sys.stdin)["layers"] if "poetry install," in layer["name"])[7:])')
printf 'dependency\tfloor\t%s\n' "$(peers floor "$work/changed.tar" "$work/floor" "$shared")" >>"$results"
rm "$work/changed.tar"
fresh_context
measure dependency usual bash -euc 'usual build'

# --- the same changes, to a running container
container() {
    docker run --rm --network none "peers:$1" true
}
export -f container
# What a load took the name from goes before the next one, and is not measured.
cat >"$work/forget" <<'SCRIPT'
[ ! -s "$work/last" ] || docker rmi -f "$(cat "$work/last")" >/dev/null 2>&1 || true
docker image inspect --format '{{.Id}}' peers:ours >"$work/last"
SCRIPT
# The memory is that of `assemble` alone: `repeat` measures it with `exec`.
loaded="$image --load && docker run --rm --network none peers:ours true"
repeat load-line ours "bash $work/forget; echo '# a line' >>$application" "$loaded"
grep -P '^load-line\tours' "$results" | sed 's/^load-line/load-line-saved/' >"$work/sum"
cat "$work/sum" >>"$results"
cp "$application" "$context/spectralmc/"
measure load-line usual bash -euc 'usual build; container usual'
echo '# another line' >>"$context/spectralmc/__init__.py"
measure load-line-saved usual bash -euc 'usual build; usual save; docker load --input "$work/usual.tar"; container usual'
rm -f "$work/usual.tar"
repeat load-dependency ours "bash $work/forget; python3 $root/benches/peers.py bump $project $files $store" "$loaded"
fresh_context
measure load-dependency usual bash -euc 'usual build; container usual'
bash "$work/forget"

# --- one more peer
if [ -n "$podman" ]; then
    fresh_context
    podman_way() {
        local podman="podman --root $work/podman --runroot $work/podman-run --cgroup-manager cgroupfs"
        base
        $podman import "$work/base.tar" peers:base
        $podman build --isolation chroot --network host --build-arg URL="$url" --tag peers:podman "$context"
        $podman save --format oci-archive --output "$work/podman.tar" peers:podman
    }
    export -f podman_way
    measure podman usual bash -euc podman_way
    grep -P '^tarball\tours' "$results" | sed 's/^tarball/podman/' >"$work/sum"
    cat "$work/sum" >>"$results"
    rm -f "$work/podman.tar"
fi

# --- the table
machine=$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1)
memory=$(awk '/MemTotal/ { printf "%.0f GB", $2 / 1e6 }' /proc/meminfo)
sha=$(grep -qw sha_ni /proc/cpuinfo && echo "with SHA-NI" || echo "without SHA-NI")
commit=$(git -c safe.directory="$root" -C "$root" rev-parse --short HEAD)
title="$(date -u +%F), commit $commit${small:+, \`--small\`}: $(nproc) cores ($machine, $sha), $memory, Linux $(uname -r), $(findmnt -no FSTYPE -T "$folder"), Docker $(docker version --format '{{.Server.Version}}'), image \`${digest:0:19}…\`."
document=-
[ -z "$write" ] || document=$root/docs/performance.md
peers table "$results" "$document" "$title"
