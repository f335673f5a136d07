//! Bytes from a log, of every version of every schema. Whatever can be read is written and read again as the same, and
//! folds; reading never takes more memory than its bound.

#![no_main]

use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;
use ringforge_domain::{
    event::Event,
    frame::{self, Shape},
    limits::AVRO_ALLOCATION_MAX,
    position::{LogTime, Offset, Partition, Position},
    schema::{self, DecodeError},
    verdict::frames_of,
    world::Store,
};
use serde_json::value::RawValue;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What a byte of a record may become: an empty text of an old schema, for one, is a value with its name.
const GROWTH: usize = 1 << 10;

fuzz_target!(
    init: {
        // The schemas are read before anything is measured.
        let _ = read(&[0; 5]);
    },
    |bytes: &[u8]| {
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let decoded = read(bytes);
        let took = MEMORY.peak_usage().saturating_sub(before);
        let bound = 2 * AVRO_ALLOCATION_MAX + GROWTH * bytes.len();
        assert!(took <= bound, "{took} bytes to read {} bytes", bytes.len());
        if let Ok(event) = decoded {
            comes_back(&event);
            folds(&event);
        }
    }
);

fn read(bytes: &[u8]) -> Result<Event, DecodeError> {
    schema::decode(bytes, Position { partition: Partition::POOL, offset: Offset(7) }, LogTime(7))
}

/// Bytes tell numbers that are none apart, which `==` does not.
fn comes_back(event: &Event) {
    let bytes = schema::encode(&event.at.header, &event.command);
    let again = read(&bytes).expect("what was encoded can be decoded");
    assert_eq!(schema::encode(&again.at.header, &again.command), bytes);
    assert_eq!(
        format!("{:?}", (&again.at.header, &again.command)),
        format!("{:?}", (&event.at.header, &event.command))
    );
}

fn folds(event: &Event) {
    let verdicts = Store::default().project(std::slice::from_ref(event));
    let shown = frames_of(event, &verdicts[0]);
    for frame in shown.reply.iter().chain(shown.pushes.iter().map(|push| &push.frame)) {
        let text = frame::encode(frame, Shape::Wrapped, None);
        serde_json::from_str::<&RawValue>(&text).expect("a frame is JSON");
    }
}
