#!/usr/bin/env bash
# Measures the server and writes loadtest/RESULTS.md. Usage: loadtest/bench.sh [--quick]
# Needs two cores (server on core 0, client on core 1), taskset, and 127.0.0.1. After the build, the full run takes about
# seven minutes, --quick about three. Ends with 1 if a check failed; the results are written all the same.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=no
case "${1:-}" in
"") ;;
--quick) quick=yes ;;
*) echo "usage: loadtest/bench.sh [--quick]" >&2 && exit 2 ;;
esac

target="${CARGO_TARGET_DIR:-target}"
results=loadtest/RESULTS.md
ulimit -n "$(ulimit -Hn)"

cargo build --locked --profile perf -p ringforge -p ringforge-loadtest
server="$target/perf/ringforge"
load="$target/perf/ringforge-load"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
new="$work/results.md"
failed=no

# One measurement: its report goes to the terminal and into the results, its failure is remembered.
measure() {
	echo "-- $*" >&2
	if ! "$load" "$@" >"$work/part.md" 2>"$work/error"; then
		failed=yes
		cat "$work/error" >&2
		if [ -s "$work/error" ]; then printf '### %s\n\n**FAILED**: %s\n' "$*" "$(tail -n 1 "$work/error")" >>"$work/part.md"; fi
	fi
	printf '`ringforge-load %s`\n\n' "${*//$server/ringforge}" >>"$work/part.md"
	cat "$work/part.md"
	cat "$work/part.md" >>"$new"
}

# What is shipped is the release build; without one, the measured build, stripped the same way.
size_of() {
	strip --strip-debug -o "$work/stripped" "$1" 2>/dev/null || cp "$1" "$work/stripped"
	awk -v bytes="$(stat -c %s "$work/stripped")" 'BEGIN { printf "%.1f MB", bytes / 1e6 }'
}
if [ -x "$target/release/ringforge" ]; then
	size="$(size_of "$target/release/ringforge") (release, thin LTO)"
else
	size="$(size_of "$server") (perf build, no LTO; the release is smaller)"
fi

revision="$(git rev-parse --short HEAD)"
git diff --quiet HEAD -- . ':!loadtest/RESULTS.md' || revision="$revision with uncommitted changes"
cat >"$new" <<EOF
# Measurements

Written by \`loadtest/bench.sh\`$([ $quick = yes ] && echo " --quick"). Do not edit; run it again. Figures of one machine at one time: compare runs
only on the same machine. The server has core 0, the client core 1, everything goes over 127.0.0.1. Ratios to the bare
fan-out server (same runtime, same socket settings, no log, no JSON) are what travels best between machines.

| condition | value |
|---|---|
| date | $(date -u +%Y-%m-%d) |
| revision | $revision |
| cores | $(nproc), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1) |
| memory | $(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1e6 }' /proc/meminfo) |
| load average before | $(cut -d ' ' -f 1-3 /proc/loadavg): well above 1, the times below are somebody else's |
| kernel | $(uname -sr) |
| compiler | $(rustc --version) |
| build | profile \`perf\` (release without LTO) |
| binary, stripped | $size |

EOF

if [ $quick = yes ]; then
	starts=3 rounds=3 seconds=5 ingest=5 events=20000 replays=10 hold=2
else
	starts=10 rounds=5 seconds=12 ingest=15 events=100000 replays=100 hold=10
fi

measure disk
measure start --server "$server" --starts $starts
measure idle --server "$server" --agents 5000 --fleets 50 --hold $hold
measure fanout --server "$server" --bare --fleets 10 --agents 100 --rate 50 --rounds $rounds --seconds $seconds
for kind in broadcast memory-set; do
	measure ingest --server "$server" --kind $kind --publishers 64 --seconds $ingest
	measure ingest --server "$server" --kind $kind --publishers 64 --window 32 --seconds $ingest
done
measure replay --server "$server" --events $events --matches 100 --rounds $replays

echo "-- criterion benches" >&2
criterion=(--noplot)
if [ $quick = yes ]; then criterion+=(--warm-up-time 0.5 --measurement-time 1); else criterion+=(--warm-up-time 1 --measurement-time 3); fi
for bench in "ringforge-loadtest domain" "ringforge-ws-edge session" "ringforge-adapters log"; do
	cargo bench --locked --profile perf -p "${bench% *}" --bench "${bench#* }" -- "${criterion[@]}" | tee -a "$work/criterion" || failed=yes
done
{
	printf '### Pieces on one core (criterion)\n\n| what | median | range |\n|---|---|---|\n'
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

cp "$new" $results
echo "wrote $results" >&2
if [ $failed = yes ]; then echo "a check failed: see FAILED in $results" >&2 && exit 1; fi
