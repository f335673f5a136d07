//! Given what the machine's two clocks showed, when it is asked again, then the time that is told.

use super::*;

const NOON: LogTime = LogTime(1_770_000_000_000_000);
const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn at_noon() -> Anchor {
    let mut anchor = Anchor::default();
    assert_eq!(anchor.tell(NOON, seconds(5)), NOON);
    anchor
}

#[test]
fn a_clock_that_goes_right_is_told_as_it_is() {
    let mut anchor = at_noon();
    assert_eq!(anchor.tell(NOON.plus(SECOND), seconds(6)), NOON.plus(SECOND));
    // It is a little slow, or fast.
    assert_eq!(anchor.tell(NOON.plus(2 * SECOND - 1_000), seconds(7)), NOON.plus(2 * SECOND - 1_000));
    assert_eq!(anchor.tell(NOON.plus(3 * SECOND + 1_000), seconds(8)), NOON.plus(3 * SECOND + 1_000));
}

#[test]
fn a_jump_ahead_is_followed_at_once() {
    let mut anchor = at_noon();
    assert_eq!(anchor.tell(NOON.plus(HOUR), seconds(5)), NOON.plus(HOUR));
}

#[test]
fn set_back_it_goes_on_at_half_its_pace_until_the_wall_has_caught_up() {
    let mut anchor = at_noon();
    let wall = |after: i64| NOON.plus(after * SECOND - HOUR);
    assert_eq!(anchor.tell(wall(0), seconds(5)), NOON);
    assert_eq!(anchor.tell(wall(10), seconds(15)), NOON.plus(5 * SECOND));
    assert_eq!(anchor.tell(wall(7_199), seconds(7_204)), NOON.plus(3_599 * SECOND + SECOND / 2));
    assert_eq!(anchor.tell(wall(7_200), seconds(7_205)), wall(7_200));
    assert_eq!(anchor.tell(wall(7_201), seconds(7_206)), wall(7_201));
}

#[test]
fn however_often_it_is_asked_it_never_falls_and_never_stands_still() {
    let mut anchor = at_noon();
    let mut told = NOON;
    for micros in 0..10_000 {
        // Set back by ever more, and once ahead for a moment.
        let jump = if micros == 5_000 { 7_000 } else { -17 * micros };
        let now = anchor.tell(NOON.plus(jump), seconds(5) + Duration::from_micros(micros.unsigned_abs()));
        assert!(now >= told, "{micros}: {told:?} {now:?}");
        told = now;
    }
    assert_eq!(told, NOON.plus(7_000 + 4_999 / 2));
}

#[test]
fn it_goes_on_from_where_it_is_told_to_and_not_from_before() {
    let clock = SystemClock::start();
    let real = clock.wall();
    clock.go_on_from(real.plus(-HOUR));
    let wall = clock.wall();
    assert!(wall >= real && wall < real.plus(HOUR));
    clock.go_on_from(real.plus(2 * HOUR));
    let wall = clock.wall();
    assert!(wall >= real.plus(2 * HOUR) && wall < real.plus(3 * HOUR));
    let begun = clock.monotonic();
    while clock.wall() == wall {
        assert!(clock.monotonic() < begun + seconds(1), "it stands still");
    }
}
