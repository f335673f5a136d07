#!/usr/bin/env bash
# Measures the server. Usage: loadtest/bench.sh [--cluster] [--quick] [--peers] [--only NAME].. [--write] [--others PERCENT]
#   --cluster its roles apart, on Kafka, PostgreSQL and Redis that are started for it, into loadtest/CLUSTER.md
#   --quick   less of everything, in about four minutes
#   --peers   beside nats-server and Centrifugo (built here, unless CENTRIFUGO_BIN names a binary)
#   --only    rows of this name, as in `--only fanout`, or whose names are like it, as in `--only 'fanout*'`: printed
#   --write   with --only: puts these rows in the place of what loadtest/RESULTS.md has of them, or at its end
#   --others  per cent of a core that others may use while a round is measured (5)
# Without --only it writes the page. Needs two cores (server on core 0, client on core 1) that nobody else
# uses, taskset, cc and strip. Ends with 1 if a check failed; the results are written all the same. A missed bar is told,
# and is no failure.
set -euo pipefail
cd "$(dirname "$0")/.."

arguments=("$@")
quick=no peers=no cluster=no only=() write=no others=5 said="$*"
while [ $# -gt 0 ]; do
	case "$1" in
	--cluster) cluster=yes ;;
	--quick) quick=yes ;;
	--peers) peers=yes ;;
	--only) only+=("${2:?--only needs a name}") && shift ;;
	--write) write=yes ;;
	--others) others="${2:?--others needs a number}" && shift ;;
	*) sed -n '2,8p' "$0" >&2 && exit 2 ;;
	esac
	shift
done

target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
results=loadtest/RESULTS.md
ulimit -n "$(ulimit -Hn)"
server="$target/perf/ringforge"
load="$target/perf/ringforge-load"

if [ $cluster = no ]; then
	cargo build --locked --profile perf -p ringforge -p ringforge-loadtest
elif [ -z "${RUN:-}" ] || [ -z "${TEST_KAFKA:-}" ]; then
	cargo build --locked --profile perf -p ringforge -p ringforge-loadtest -p ringforge-adapters --bins \
		--features ringforge/cluster,ringforge-adapters/cluster
	scripts/services install
	# RUN is said so that it is passed on: the servers' folder.
	RUN='' exec scripts/services run loadtest/bench.sh "${arguments[@]}"
else
	results=loadtest/CLUSTER.md
	export RINGFORGE="$server" ROUND_TRIP="$target/perf/round-trip"
fi
shipped="$server"
if [ -x "$target/release/ringforge" ]; then shipped="$target/release/ringforge"; fi

# Who else takes part in fan-out, in what is acknowledged, and in what is idle.
fanout_peers=() ingest_peers=() idle_peers=()
if [ $peers = yes ]; then
	nats="$target/peers/nats-server"
	if [ ! -x "$nats" ]; then GOBIN="$target/peers" go install github.com/nats-io/nats-server/v2@v2.14.5; fi
	fanout_peers=(--nats "$nats") ingest_peers=(--jetstream "$nats") idle_peers=(--nats "$nats")
	centrifugo="${CENTRIFUGO_BIN:-$target/peers/centrifugo}"
	if [ -x "$centrifugo" ] || GOBIN="$target/peers" go install github.com/centrifugal/centrifugo/v6@v6.9.1; then
		fanout_peers+=(--centrifugo "$centrifugo") ingest_peers+=(--centrifugo "$centrifugo")
		idle_peers+=(--centrifugo "$centrifugo")
	else
		echo "SKIPPED: Centrifugo, because it cannot be built and CENTRIFUGO_BIN names no binary" >&2
	fi
fi

work="$(mktemp -d)"
trap 'end_postgres; rm -rf "$work"' EXIT

# A second PostgreSQL, for read models on two servers. Its files lie where user postgres may go.
second= as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/tmp)
postgres() { (cd / && ${as[@]+"${as[@]}"} "$(find /usr/lib/postgresql/*/bin -maxdepth 0 | sort -V | tail -n 1)/$1" -D "$second/data" "${@:2}" >/dev/null); }
start_postgres() {
	local port
	port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
	second=$(mktemp -d)
	[ "$(id -u)" != 0 ] || chown postgres "$second"
	postgres initdb -U app -A trust -E UTF8 --locale=C.UTF-8 --no-sync --no-instructions
	postgres pg_ctl -w -t 30 -l "$second/log" start \
		-o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c shared_buffers=256MB -c max_connections=200"
	export TEST_POSTGRES_2=postgres://app@127.0.0.1:$port/postgres
}
end_postgres() {
	[ -n "$second" ] || return 0
	postgres pg_ctl -m immediate stop || true
	rm -rf "$second"
}
new="$work/results.md"
failed=no

wanted() {
	[ ${#only[@]} = 0 ] && return
	local name
	# A pattern.
	# shellcheck disable=SC2053
	for name in "${only[@]}"; do [[ "$1" == $name ]] && return; done
	return 1
}

# One row: its name, the command, and its sizes, full and quick. The report goes to the terminal and into the results, a
# failure is remembered. `disk` and `reader` are of this machine: no server, no bars. Nor is there a bar for what
# docs/capacity.md reckons with.
common=(--server "$server" --others "$others")
if [ $cluster = yes ]; then common+=(--apart loadtest/servers.sh --any-core); fi
row() {
	local name=$1 command=$2 full=$3 less=$4
	shift 4
	wanted "$name" || return 0
	local sizes=$full
	if [ $quick = yes ]; then sizes=$less; fi
	local options=() judged=()
	case "$command" in
	disk) ;;
	reader) options=(--others "$others") ;;
	*) options=("${common[@]}") judged=(--row "$name") ;;
	esac
	case "$name" in cluster-slope-*) judged=() ;; esac
	# Sizes are words.
	# shellcheck disable=SC2206
	local run=($command ${judged[@]+"${judged[@]}"} ${options[@]+"${options[@]}"} $sizes "$@")
	echo "-- $name: ringforge-load ${run[*]}" >&2
	if ! "$load" "${run[@]}" >"$work/part.md" 2>"$work/error"; then
		failed=yes
		cat "$work/error" >&2
		if [ -s "$work/error" ]; then printf '### %s\n\n**FAILED**: %s\n' "$name" "$(tail -n 1 "$work/error")" >>"$work/part.md"; fi
	fi
	printf '\n`ringforge-load %s`, revision %s\n\n' "${run[*]//$target\//}" "$revision" >>"$work/part.md"
	sed "1s/^### /### $name: /" "$work/part.md" | tee -a "$new"
}

revision="$(git rev-parse --short HEAD)"
git diff --quiet HEAD -- . ':!loadtest/RESULTS.md' ':!loadtest/CLUSTER.md' || revision="$revision with uncommitted changes"
if [ $cluster = yes ]; then
	title='Measurements of roles apart'
	kafka=$(basename "$(find "${SERVICES:-$target/services}/tools/kafka" -name 'kafka_2*.jar')" .jar)
	below="
| below | $kafka (heap 256 MB, acknowledges before it syncs), $(psql -V) (256 MB of buffers), Redis $(redis-server -v | sed 's/.* v=\([0-9.]*\).*/\1/') |"
	about='One broker of Kafka, one PostgreSQL, one Redis, one `projectors`, one `command-api`, two `edge` and the
client share all cores; everything goes over 127.0.0.1. What is asked of the servers is in `servers.sh`. Before each round of
`cluster-acked` a bare producer and consumer go through the same broker. Rows without bars are for docs/capacity.md.
Latencies count from the time at which something was sent or due.'
else
	title=Measurements below=
	about='The server has core 0, the client core 1, everything goes over 127.0.0.1. Ratios to the bare
fan-out server (same runtime, no log, no JSON) in the same round are what travels best between machines. Latencies count
from the time at which something was due.'
fi
cat >"$new" <<EOF
# $title

Written by \`loadtest/bench.sh${said:+ $said}\`. Do not edit; run it again. Figures of one machine at one time: compare runs
only on the same machine. $about A round in which others had more than $others % of a core is measured again.
What was missed or has failed stands in its row. A row names the revision it was measured at.

| condition | value |
|---|---|
| date | $(date -u +%Y-%m-%d) |
| revision | $revision |
| cores | $(nproc), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1) |
| memory | $(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1e6 }' /proc/meminfo) |
| load average before | $(cut -d ' ' -f 1-3 /proc/loadavg) |
| kernel | $(uname -sr) |
| compiler | $(rustc --version) |
| build | profile \`perf\` (release without LTO); weighed: ${shipped#"$target"/} |$below

EOF

if [ $cluster = yes ]; then
	row cluster-acked ingest "--publishers 1 --fleets 1 --round-trip" "--publishers 1 --fleets 1 --round-trip --seconds 4 --rounds 1"
	row cluster-ingest ingest "--publishers 64" "--publishers 64 --seconds 4 --rounds 1"
	row cluster-pipelined ingest "--publishers 64 --window 32 --seconds 16" "--publishers 64 --window 32 --seconds 5 --rounds 1"
	row cluster-across fanout "--fleets 10 --agents 10 --publishers 2 --rate 50 --across --seconds 12" "--fleets 10 --agents 10 --publishers 2 --rate 50 --across --seconds 4 --rounds 1"
	row cluster-newest replay "--events 100000 --matches 100 --newest" "--events 20000 --matches 100 --newest --replays 10 --rounds 1"
	row cluster-scattered replay "--events 100000 --matches 100" "--events 20000 --matches 20 --replays 10 --rounds 1"
	row cluster-catch-up catch-up "--events 300000" "--events 50000 --rounds 1"
	row cluster-slope-memory ingest "--kind memory-set --publishers 64" "--kind memory-set --publishers 64 --seconds 4 --rounds 1"
	row cluster-slope-idle idle "--agents 1800 --fleets 18 --hold 20" "--agents 600 --fleets 6 --rounds 1"
	export SPLIT=yes
	if wanted cluster-slope-split; then start_postgres; fi
	row cluster-slope-split ingest "--publishers 64 --window 32 --fleets 32" "--publishers 64 --window 32 --fleets 32 --seconds 5 --rounds 1"
else
	row disk disk "" ""
	row start start "--rounds 10" "--rounds 3" --shipped "$shipped"
	row idle idle "--agents 9000 --fleets 90 --bare" "--agents 1800 --fleets 18 --rounds 1 --hold 2 --bare" "${idle_peers[@]}"
	row fanout fanout "--fleets 10 --agents 100 --rate 50 --seconds 12 --bare" "--fleets 10 --agents 100 --rate 50 --seconds 4 --bare" "${fanout_peers[@]}"
	row small-fleets fanout "--fleets 100 --agents 10 --rate 20 --seconds 12 --bare" "--fleets 100 --agents 10 --rate 20 --seconds 4 --rounds 1 --bare" "${fanout_peers[@]}"
	row durable fanout "--fleets 100 --agents 10 --rate 50 --seconds 12" "--fleets 100 --agents 10 --rate 50 --seconds 4 --rounds 1" "${ingest_peers[@]}"
	row fanout-300k fanout "--fleets 10 --agents 100 --rate 300 --seconds 12" "--fleets 10 --agents 100 --rate 300 --seconds 4 --rounds 1" "${fanout_peers[@]}"
	row fanout-600k fanout "--fleets 10 --agents 100 --rate 600 --seconds 12" "--fleets 10 --agents 100 --rate 600 --seconds 4 --rounds 1" "${fanout_peers[@]}"
	row peak peak "--fleets 2 --agents 200 --batch --from 1000 --step 20" "--fleets 2 --agents 200 --batch --seconds 3 --step 100 --rounds 1"
	row reader reader "" "--seconds 3 --rounds 1"
	row one-publisher ingest "--publishers 1 --fleets 1" "--publishers 1 --fleets 1 --seconds 4 --rounds 1" "${ingest_peers[@]}"
	row closed-loop ingest "--publishers 64" "--publishers 64 --seconds 4 --rounds 1" "${ingest_peers[@]}"
	row pipelined ingest "--publishers 64 --window 32 --seconds 31" "--publishers 64 --window 32 --seconds 5 --rounds 1" "${ingest_peers[@]}"
	row closed-loop-slow-disk ingest "--publishers 64 --fsync-ms 4" "--publishers 64 --fsync-ms 4 --seconds 4 --rounds 1"
	row pipelined-slow-disk ingest "--publishers 64 --window 32 --seconds 31 --fsync-ms 4" "--publishers 64 --window 32 --seconds 5 --fsync-ms 4 --rounds 1"
	row memory-cas ingest "--kind memory-cas --publishers 64" "--kind memory-cas --publishers 64 --seconds 4 --rounds 1"
	row memory-get ingest "--kind memory-get --publishers 64" "--kind memory-get --publishers 64 --seconds 4 --rounds 1"
	row watchers watch "--watchers 10000 --rate 0 --purge" "--watchers 1000 --rate 0 --purge --rounds 1"
	row notices watch "--watchers 2000 --rate 10" "--watchers 1000 --rate 10 --seconds 3 --rounds 1"
	row storm storm "--agents 9000 --fleets 90 --missed 20" "--agents 1800 --fleets 18 --missed 20 --rounds 1"
	row join join "--agents 1000 --within-ms 1000" "--agents 1000 --within-ms 1000 --rounds 1"
	row replay replay "--events 100000 --matches 100" "--events 20000 --matches 100 --replays 10 --rounds 1"
	row query query "--entries 100000" "--entries 20000 --queries 50 --rounds 1" --rebuild --row rebuild
	row replies neighbour "--other replies" "--other replies --seconds 3 --rounds 1"
	row stalled neighbour "--other stalled --stalled 1000 --seconds 15" "--other stalled --stalled 1000 --seconds 8 --rounds 1"
	row neighbour neighbour "--other tenant --fleets 10 --agents 20 --rate 10" "--other tenant --fleets 10 --agents 20 --rate 10 --seconds 6 --rounds 1"
fi

if [ $cluster = no ] && wanted pieces; then
	echo "-- criterion benches" >&2
	criterion=(--noplot)
	if [ $quick = yes ]; then criterion+=(--warm-up-time 0.2 --measurement-time 0.5); else criterion+=(--warm-up-time 1 --measurement-time 3); fi
	for bench in "ringforge-loadtest domain" "ringforge-ws-edge session" "ringforge-adapters log"; do
		cargo bench --locked --profile perf -p "${bench% *}" --bench "${bench#* }" -- "${criterion[@]}" | tee -a "$work/criterion" || failed=yes
	done
	{
		printf '### pieces, on one core (criterion)\n\n| what | median | range |\n|---|---|---|\n'
		# A name of its own line or before `time: [low median high]`.
		awk '
			/time: *\[/ && !/%/ {
				name = $1 == "time:" ? last : $1
				sub(/.*time: *\[/, ""); sub(/\].*/, "")
				split($0, part, " ")
				printf "| %s | %s %s | %s %s to %s %s |\n", name, part[3], part[4], part[1], part[2], part[5], part[6]
			}
			{ if ($1 != "") last = $1 }
		' "$work/criterion"
	} >>"$new"
fi

if [ ${#only[@]} = 0 ]; then
	cp "$new" $results
	echo "wrote $results" >&2
elif [ $write = yes ]; then
	# The new rows by name, each until the next heading; then the old page with these in their places.
	awk '
		/^### / { name = $2; sub(/[:,]$/, "", name) }
		NR == FNR { if (name != "") rows[name] = rows[name] $0 "\n"; next }
		FNR == 1 { name = "" }
		name in rows { if (/^### /) { printf "%s", rows[name]; written[name] = 1 }; next }
		{ print }
		END { for (name in rows) if (!(name in written)) printf "%s", rows[name] }
	' "$new" $results >"$work/merged.md"
	cp "$work/merged.md" $results
	echo "wrote $(grep -c '^### ' "$new") rows of $results" >&2
fi
if [ $failed = yes ]; then echo "a check failed: see FAILED above" >&2 && exit 1; fi
