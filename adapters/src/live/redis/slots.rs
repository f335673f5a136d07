//! Which server of a cluster owns which names: every name has one of 16,384 slots, every slot a server.

use std::collections::BTreeSet;

use redis::{Value, from_redis_value_ref};

/// The slots of a cluster.
const SLOTS: u16 = 16_384;

/// Where a server listens.
pub type Address = (String, u16);

/// The slot of a key or channel. Only what stands in its first braces counts, if anything does.
pub fn slot(name: &str) -> u16 {
    let tag = name.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    crc16(tag.filter(|tag| !tag.is_empty()).unwrap_or(name).as_bytes()) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8)
            .fold(crc ^ (u16::from(*byte) << 8), |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    })
}

/// A server as the one at `asked` names it, which may not know its own host.
fn named(server: &Value, asked: &str) -> Option<Address> {
    let Value::Array(server) = server else { return None };
    let [host, port, ..] = server.as_slice() else { return None };
    let host: Option<String> = from_redis_value_ref(host).ok()?;
    let host = host.filter(|host| !host.is_empty()).unwrap_or_else(|| asked.to_owned());
    Some((host, from_redis_value_ref(port).ok()?))
}

/// The first and last slot of a range and its servers. The first of them owns it, the others are its replicas.
fn owned(range: &Value, asked: &str) -> Option<(u16, u16, Vec<Address>)> {
    let Value::Array(range) = range else { return None };
    let [first, last, servers @ ..] = range.as_slice() else { return None };
    let servers = servers.iter().map(|server| named(server, asked)).collect::<Option<Vec<_>>>()?;
    Some((from_redis_value_ref(first).ok()?, from_redis_value_ref(last).ok()?, servers))
}

/// Who owns which slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// The last slot of each range and its owner, in order.
    ranges: Vec<(u16, Option<Address>)>,
    /// Every server of the cluster: a replica knows who owns what when its master is gone.
    pub known: BTreeSet<Address>,
    /// What is said of a later one counts more.
    pub epoch: u64,
}

impl Owners {
    /// One server owns all.
    pub fn all(address: Address) -> Self {
        Self { ranges: vec![(SLOTS - 1, Some(address))], ..Self::default() }
    }

    /// From the answers to `CLUSTER INFO` and `CLUSTER SLOTS` of the server at `asked`.
    pub fn parse(info: &str, answer: &[Value], asked: &str) -> Option<Self> {
        let epoch = info.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:")?.trim().parse().ok())?;
        let mut owned = answer.iter().map(|range| owned(range, asked)).collect::<Option<Vec<_>>>()?;
        owned.sort_unstable();
        let known = owned.iter().flat_map(|(.., servers)| servers).cloned().collect();
        let mut ranges = Vec::new();
        let mut next = 0;
        for (first, last, servers) in owned {
            if first > next {
                ranges.push((first - 1, None));
            }
            ranges.push((last, servers.into_iter().next()));
            next = last + 1;
        }
        Some(Self { ranges, known, epoch })
    }

    /// The owner of a slot, if it has one.
    pub fn of(&self, slot: u16) -> Option<&Address> {
        let at = self.ranges.partition_point(|(last, _)| *last < slot);
        self.ranges.get(at)?.1.as_ref()
    }

    /// Every owner, some of them more than once.
    pub fn servers(&self) -> impl Iterator<Item = &Address> {
        self.ranges.iter().filter_map(|(_, address)| address.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_servers() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!((slot("foo"), slot("{foo}bar"), slot("x{foo}{bar}")), (12_182, 12_182, 12_182));
        assert_eq!(slot("{}foo"), crc16(b"{}foo") % SLOTS);
    }

    #[test]
    fn every_slot_has_its_owner_or_none() {
        let server = |host: &str, port| Value::Array(vec![Value::BulkString(host.into()), Value::Int(port)]);
        let range = |first, last, servers: Vec<Value>| {
            Value::Array([vec![Value::Int(first), Value::Int(last)], servers].concat())
        };
        let answer = [range(200, 300, vec![server("b", 2), server("c", 3)]), range(0, 99, vec![server("", 1)])];
        let info = "cluster_state:ok\r\ncluster_current_epoch:6\r\n";
        let owners = Owners::parse(info, &answer, "a").expect("an answer");
        assert_eq!((owners.epoch, owners.known.len()), (6, 3));
        let port = |slot| owners.of(slot).map(|(host, port)| (host.as_str(), *port));
        assert_eq!([0, 99, 100, 199].map(port), [Some(("a", 1)), Some(("a", 1)), None, None]);
        assert_eq!([200, 300, 301, SLOTS - 1].map(port), [Some(("b", 2)), Some(("b", 2)), None, None]);
        assert_eq!(Owners::parse(info, &[range(0, 1, vec![Value::Nil])], "a"), None);
        assert_eq!(Owners::all(("a".to_owned(), 1)).of(SLOTS - 1), Some(&("a".to_owned(), 1)));
    }
}
