//! What date it is to each operator: they run on machines of their own, whose clocks differ from each other and from the API server's.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use operator::clock::Wall;

/// Operators with a clock of their own: as many as the largest world has.
const PLACES: usize = 4;

/// The clock of an operator's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// So many seconds ahead of the API server's; behind it where that is below zero.
    Ahead(i64),
    /// It stands still at this date.
    StandsAt(SystemTime),
}

/// Every clock is right.
const RIGHT: [Clock; PLACES] = [Clock::Ahead(0); PLACES];

std::thread_local! {
    /// Those of the world of this thread.
    static CLOCKS: Cell<[Clock; PLACES]> = const { Cell::new(RIGHT) };
}

/// The operator asks for the date by a function alone.
const READ: [fn() -> SystemTime; PLACES] = [shown::<0>, shown::<1>, shown::<2>, shown::<3>];

/// The date, to the operator at a place.
#[must_use]
pub fn wall(place: usize) -> Wall {
    Wall::new(READ[place % PLACES])
}

/// A world begins with clocks that are right.
pub(crate) fn reset() {
    CLOCKS.set(RIGHT);
}

pub(crate) fn set(place: usize, clock: Clock) {
    let mut clocks = CLOCKS.get();
    clocks[place % PLACES] = clock;
    CLOCKS.set(clocks);
}

fn shown<const PLACE: usize>() -> SystemTime {
    let now = apimodel::wall();
    match CLOCKS.get()[PLACE] {
        Clock::Ahead(seconds) if seconds < 0 => now - Duration::from_secs(seconds.unsigned_abs()),
        Clock::Ahead(seconds) => now + Duration::from_secs(seconds.unsigned_abs()),
        Clock::StandsAt(date) => date,
    }
}
