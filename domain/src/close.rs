//! Why a connection ends: the close codes of the wire. 1000-4399: come back; 4400-4999: final.

use crate::code::Code;

/// Why we end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Frames that are no WebSocket frames.
    Protocol,
    /// Text that is not UTF-8.
    NotText,
    /// A message too big to be parsed, or in too many fragments.
    TooBig,
    /// The server restarts.
    Restart,
    /// Something behind is away: try later.
    TryLater,
    /// Silent for too long.
    HeartbeatLost,
    /// Too many attempts, or pings.
    TooOften,
    /// The `auth` frame is not valid.
    Invalid,
    /// No valid key, or no `auth` in time.
    Unauthorized,
    /// Not allowed.
    Forbidden,
    /// There is no such fleet.
    FleetGone,
    /// Replaced by a newer session of the same agent.
    Replaced,
    /// No common protocol version.
    Version,
}

impl Close {
    /// All of them, by code.
    pub const ALL: [Self; 13] = [
        Self::Protocol,
        Self::NotText,
        Self::TooBig,
        Self::Restart,
        Self::TryLater,
        Self::HeartbeatLost,
        Self::TooOften,
        Self::Invalid,
        Self::Unauthorized,
        Self::Forbidden,
        Self::FleetGone,
        Self::Replaced,
        Self::Version,
    ];

    /// Why a connection ends whose `auth` was refused.
    pub fn of(code: Code) -> Self {
        match code {
            Code::InvalidMessage | Code::PayloadTooLarge => Self::Invalid,
            Code::Forbidden => Self::Forbidden,
            Code::NotFound => Self::FleetGone,
            Code::VersionUnsupported => Self::Version,
            Code::RateLimited => Self::TooOften,
            Code::Unavailable | Code::Overloaded | Code::Timeout | Code::ServerError => Self::TryLater,
            Code::Unauthorized | Code::InvalidApiKey | Code::Conflict | Code::IdempotencyMismatch => Self::Unauthorized,
        }
    }

    /// Its code.
    pub fn code(self) -> u16 {
        self.entry().0
    }

    /// Its reason, in one word.
    pub fn reason(self) -> &'static str {
        self.entry().1
    }

    /// What it means, for the reference.
    pub fn meaning(self) -> &'static str {
        self.entry().2
    }

    /// Whether the client should come back.
    pub fn reconnect(self) -> bool {
        self.code() < 4400
    }

    fn entry(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Protocol => (1002, "protocol", "frames that break the WebSocket protocol"),
            Self::NotText => (1007, "not_text", "a text message was not UTF-8"),
            Self::TooBig => (1009, "too_big", "a message was too big to be parsed, or in more than 64 fragments"),
            Self::Restart => (
                1012,
                "restart",
                "the server restarts; `system/maintenance` said when to come back, and a command that was not answered \
                 before has no effect",
            ),
            Self::TryLater => (1013, "try_later", "a service behind is away, try later"),
            Self::HeartbeatLost => (4001, "heartbeat_lost", "silent for too long"),
            Self::TooOften => (4029, "too_often", "too many attempts, or too many WebSocket pings"),
            Self::Invalid => (4400, "invalid", "the `auth` frame is not valid"),
            Self::Unauthorized => (4401, "no_access", "no valid key, or no `auth` in time"),
            Self::Forbidden => (4403, "not_allowed", "the key may not do this"),
            Self::FleetGone => (4404, "fleet_gone", "there is no such fleet"),
            Self::Replaced => (4409, "replaced", "a newer session speaks for the same agent"),
            Self::Version => (4426, "version", "no common protocol version"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_says_whether_to_come_back() {
        let codes = [1002, 1007, 1009, 1012, 1013, 4001, 4029, 4400, 4401, 4403, 4404, 4409, 4426];
        assert_eq!(Close::ALL.map(Close::code), codes);
        let back = Close::ALL.map(Close::reconnect);
        assert_eq!(back, codes.map(|code| code < 4400));
        for (at, close) in Close::ALL.into_iter().enumerate() {
            assert!(close.meaning().len() > 10 && !close.reason().is_empty());
            assert!(Close::ALL[..at].iter().all(|other| other.reason() != close.reason()), "{}", close.reason());
        }
    }

    #[test]
    fn a_refused_auth_ends_as_its_code_says() {
        let ends = Code::ALL.map(|code| (code, Close::of(code)));
        for (code, close) in ends {
            let wanted = match code {
                Code::InvalidMessage | Code::PayloadTooLarge => 4400,
                Code::Forbidden => 4403,
                Code::NotFound => 4404,
                Code::VersionUnsupported => 4426,
                Code::RateLimited => 4029,
                _ if code.retryable() => 1013,
                _ => 4401,
            };
            assert_eq!(close.code(), wanted, "{}", code.text());
            assert_eq!(close.reconnect(), code.retryable(), "{}", code.text());
        }
    }
}
