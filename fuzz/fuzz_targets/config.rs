//! Settings. Whatever is accepted makes sense to every part that is given them; what is not, is refused with a reason.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ringforge::config::Config;

fuzz_target!(|text: &str| {
    let config = match Config::read(text) {
        Ok(config) => config,
        Err(error) => return assert!(!format!("{error:#}").is_empty()),
    };
    assert_eq!((config.address().ip(), config.address().port()), (config.server.bind, config.server.port));
    assert!(config.http().connections_max > 0 && !config.http().upgrade_timeout.is_zero());
    let (edge, gate) = (config.edge("node".to_owned()), config.gate());
    assert!(edge.session.silence_timeout > edge.session.ping_interval);
    // Times are added to how long a process is up: a century, to be sure.
    let century = Duration::from_hours(100 * 366 * 24);
    let session = &edge.session;
    for wait in [session.auth_timeout, session.silence_timeout, session.reply_timeout, 2 * session.silence_timeout] {
        let _ = century + wait;
    }
    assert!(gate.limits.frame_bytes() > gate.limits.memory_value_bytes);
});
