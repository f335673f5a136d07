#!/usr/bin/env bash
# What the load client asks of the servers below an installation; it speaks to none of them itself. Their addresses are in the
# environment (`scripts/services run`), where the broker keeps its files is in RUN, the binaries are RINGFORGE and ROUND_TRIP.
# With SPLIT the read models are on two servers of PostgreSQL, and the live bus is a Redis Cluster. NAME is an installation's.
#
#   servers.sh new NAME                  makes its topics and databases; its settings, NAME=VALUE a line
#   servers.sh empty|drop NAME           empties its read models; drops them
#   servers.sh processes                 the servers: PROCESS NAME
#   servers.sh counters NAME             what they have counted: NUMBER NAME
#   servers.sh facts NAME                what is where: WHAT: VALUE; fails if anything is where it must not be
#   servers.sh applied|follow NAME       how far the partition is that is furthest; again and again
#   servers.sh round-trip SECONDS BYTES  one record after the other through the broker alone: NUMBER NAME
set -euo pipefail

what=${1:?} name=${2:-}
databases=("${TEST_POSTGRES%/*}/$name") redis=$TEST_REDIS
if [ -n "${SPLIT:-}" ]; then databases+=("${TEST_POSTGRES_2%/*}/$name") redis=$TEST_REDIS_CLUSTER; fi

sql() { psql -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }
# A Redis each.
nodes() { tr ',' '\n' <<<"${redis#redis://}"; }
asked() { redis-cli -p "${1##*:}" "${@:2}" | tr -d '\r'; }
# `postgres`, or `postgres-1` of several.
numbered() { if [ "$2" = 1 ]; then echo "$1"; else echo "$1-$3"; fi; }

make_databases() { for database in "${databases[@]}"; do createdb --maintenance-db "${database%/*}/postgres" "$name"; done; }
drop_databases() { for database in "${databases[@]}"; do dropdb --force --if-exists --maintenance-db "${database%/*}/postgres" "$name"; done; }

settings() {
	echo "RINGFORGE__STORES__LOG=$TEST_KAFKA/$name"
	echo "RINGFORGE__STORES__READS=$(IFS=, && echo "${databases[*]}")"
	echo "RINGFORGE__STORES__LIVE=$redis?prefix=$name"
	echo "RINGFORGE__SECRETS__SEAL=$(printf '5e%.0s' {1..32})"
}

processes() {
	local at=0 count database node
	echo "$(cat "$RUN/kafka1/pid") broker"
	for database in "${databases[@]}"; do
		at=$((at + 1))
		echo "$(head -n 1 "$(sql "${database%/*}/postgres" -c 'SHOW data_directory')/postmaster.pid") $(numbered postgres ${#databases[@]} $at)"
	done
	at=0 count=$(nodes | wc -l)
	for node in $(nodes); do
		at=$((at + 1))
		echo "$(asked "$node" info server | sed -n 's/^process_id://p') $(numbered redis "$count" $at)"
	done
}

counters() {
	local at=0 count database node of
	find "$RUN/kafka1/data" -path "*/$name.*" -name '*.log' -printf '%s\n' | awk '{ bytes += $1 } END { print bytes + 0 " bytes in Kafka" }'
	awk '/^wchar/ { print $2 " bytes that the broker writes, to files and sockets" }' "/proc/$(cat "$RUN/kafka1/pid")/io"
	for database in "${databases[@]}"; do
		at=$((at + 1)) of=$(numbered postgres ${#databases[@]} $at)
		# The log is the whole server's.
		sql "$database" <<-SQL
			SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') || ' bytes of WAL, $of';
			SELECT coalesce(sum(pg_table_size(oid)), 0) || ' bytes of tables, $of' FROM pg_class
			WHERE relnamespace = to_regnamespace('ringforge') AND relkind = 'r';
			SELECT coalesce(sum(pg_indexes_size(oid)), 0) || ' bytes of indexes, $of' FROM pg_class
			WHERE relnamespace = to_regnamespace('ringforge') AND relkind = 'r';
			SELECT xact_commit || ' transactions, $of' FROM pg_stat_database WHERE datname = current_database();
		SQL
	done
	at=0 count=$(nodes | wc -l)
	for node in $(nodes); do
		at=$((at + 1)) of=$(numbered redis "$count" $at)
		asked "$node" info stats | awk -F: -v of="$of" '
			$1 == "total_net_input_bytes" { print $2 " bytes into " of }
			$1 == "total_net_output_bytes" { print $2 " bytes out of " of }
			$1 == "total_commands_processed" { print $2 " commands of " of }'
	done
}

# Of several servers, partition p is on number p modulo their count. Slots of the live bus are the cluster's affair: whoever asks
# a node for what is another's is told so, and it counts that.
facts() {
	local at=0 count=${#databases[@]} database node wrong=0 strays moved published
	for database in "${databases[@]}"; do
		strays=$(sql "$database" -c "SELECT count(*) FROM (
			SELECT partition FROM ringforge.partitions UNION ALL SELECT partition FROM ringforge.rows
			UNION ALL SELECT partition FROM ringforge.memory UNION ALL SELECT place / 8796093022208 FROM ringforge.history
			UNION ALL SELECT place / 8796093022208 FROM ringforge.history_tags) s WHERE partition % $count <> $at")
		at=$((at + 1)) wrong=$((wrong + strays))
		sql "$database" -c "SELECT '$(numbered postgres "$count" $at) holds: partitions ' || string_agg(partition::text, ' ' ORDER BY partition)
				|| '; ' || (SELECT count(*) FROM ringforge.history) || ' verdicts; $strays lines of partitions of others'
			FROM ringforge.partitions"
	done
	at=0 count=$(nodes | wc -l)
	for node in $(nodes); do
		at=$((at + 1))
		published=$(asked "$node" info commandstats | sed -n 's/^cmdstat_spublish:calls=\([0-9]*\),.*/\1/p')
		moved=$(asked "$node" info errorstats | sed -n 's/^errorstat_MOVED:count=\([0-9]*\).*/\1/p')
		wrong=$((wrong + ${moved:-0}))
		echo "$(numbered redis "$count" $at) since its start: ${published:-0} updates published; ${moved:-0} asked for that are others'"
	done
	if [ "$wrong" != 0 ]; then echo "$wrong times something was where it must not be" >&2 && exit 1; fi
}

furthest="SELECT coalesce(max(applied), 0) FROM ringforge.partitions"

case $what in
new)
	make_databases
	settings
	# shellcheck disable=SC2046
	env $(settings) "$RINGFORGE" topics create --partitions 4 --replication 1 --min-insync 1 >&2
	;;
empty) drop_databases && make_databases ;;
drop) drop_databases ;;
processes) processes ;;
counters) counters ;;
facts) facts ;;
applied) sql "${databases[0]}" -c "$furthest" ;;
follow)
	until sql "${databases[0]}" -c "$furthest" 2>/dev/null; do sleep 0.02; done
	exec psql -X -q -A -t "${databases[0]}" <<<"$furthest \\watch 0.05"
	;;
round-trip) exec "$ROUND_TRIP" "$TEST_KAFKA" "$2" "$3" ;;
*) sed -n '2,13p' "$0" >&2 && exit 2 ;;
esac
