//! Bootstrap files and kept keys. What is wanted is made once, passes the gate, and reads back from what is kept.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringforge::{
    bootstrap::{Credentials, FleetCredentials, Wanted, commands},
    secrets,
};
use ringforge_command_api::key;
use ringforge_domain::{limits::Limits, position::Partition};
use ringforge_ports::clock::SeededIds;

fuzz_target!(|text: &str| {
    // The same text as what was kept, damaged.
    if let Ok(kept) = serde_json::from_str::<Credentials>(text) {
        let _ = secrets::seal("", Some(&kept.seal_key));
    }
    let Ok(wanted) = Wanted::read(text) else { return };
    let ids = SeededIds::new(1);
    let mut made = Credentials::new(&*ids);
    assert!(secrets::seal("", Some(&made.seal_key)).is_ok());
    if made.add(&wanted, &*ids).is_err() {
        return;
    }
    let once = made.clone();
    made.add(&wanted, &*ids).expect("these names can be used");
    assert_eq!(made, once, "what is there is not made again");
    let kept = serde_json::to_vec(&made).expect("it serialises");
    assert_eq!(serde_json::from_slice::<Credentials>(&kept).expect("it reads"), made);
    let home =
        |fleet: &FleetCredentials| if fleet.dedicated.is_some() { Partition::DEDICATED } else { Partition::POOL };
    for (_, _, command) in commands(&made, home) {
        command.check(&Limits::default()).expect("the gate lets it pass");
    }
    for tenant in &made.tenants {
        let agents = tenant.fleets.iter().map(|fleet| &fleet.agent_key);
        assert!(agents.chain([&tenant.admin_key]).all(|text| key::well_formed(text)));
    }
});
